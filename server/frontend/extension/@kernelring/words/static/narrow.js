/* On a narrow screen JupyterLab opens with its notebook, and not with the list of files over most of it. */

const NARROW_PX = 700;

/** The plugin. `shared` gives the page's own modules by name. */
export async function plugins(shared) {
  const { ILabShell } = await shared("@jupyterlab/application");
  return [
    {
      id: "@kernelring/words:narrow",
      description: "Closes the left side bar when the page is opened in a narrow window.",
      autoStart: true,
      optional: [ILabShell], // Notebook 7 has another one
      activate: (app, shell) => {
        if (shell && window.innerWidth < NARROW_PX) app.restored.then(() => shell.collapseLeft());
      },
    },
  ];
}
