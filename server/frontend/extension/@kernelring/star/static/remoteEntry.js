/* The star in the prompt of a cell that waits or runs: `[*]`.
 *
 * JupyterLab's own executor shows it; jupyter-server-nbmodel's leaves it to a collaboration server, and here is none. An
 * extension's container, written by hand as that of @kernelring/words, with its only plugin in it.
 */
"use strict";
(() => {
  let scope = {};

  /* One of the page's own modules, which core has loaded already. */
  async function shared(name) {
    const versions = Object.values(scope[name] ?? {});
    const one = versions.find((version) => version.loaded || version.eager) ?? versions[0];
    if (!one) throw new Error(`@kernelring/star: this page does not share ${name}`);
    return (await one.get())();
  }

  function show(cell, state) {
    if (cell.model?.type === "code" && cell.model.sharedModel.executionState !== state) {
      cell.model.sharedModel.executionState = state;
    }
  }

  async function extension() {
    const { NotebookActions } = await shared("@jupyterlab/notebook");
    const plugin = {
      id: "@kernelring/star:plugin",
      description: "Shows that a cell waits or runs.",
      autoStart: true,
      activate: () => {
        NotebookActions.executionScheduled.connect((_, { cell }) => show(cell, "running"));
        NotebookActions.executed.connect((_, { cell }) => show(cell, "idle"));
      },
    };
    return () => ({ __esModule: true, default: plugin });
  }

  window._JUPYTERLAB = window._JUPYTERLAB ?? {};
  window._JUPYTERLAB["@kernelring/star"] = {
    init(given) {
      scope = given;
    },
    get(module) {
      if (module === "./extension") return extension();
      return Promise.reject(new Error(`@kernelring/star has no ${module}`));
    },
  };
})();
