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
        if (shell && window.innerWidth < NARROW_PX) app.restored.then(() => close(shell));
      },
    },
  ];
}

/* What is kept of the layout has the side bar as it was: the next window of the same user may be a wide one. */
function close(shell) {
  const before = shell.saveLayout().leftArea ?? {};
  const save = shell.saveLayout.bind(shell);
  shell.saveLayout = () => {
    const layout = save();
    if (!layout.leftArea?.collapsed) return layout;
    const { collapsed, currentWidget } = before;
    return { ...layout, leftArea: { ...layout.leftArea, collapsed, currentWidget } };
  };
  shell.collapseLeft();
}
