/* A cell that was run waits until it can be, and shows that it waits or runs: `[*]`.
 *
 * JupyterLab's own executor shows the star; jupyter-server-nbmodel's leaves it to a collaboration server, and here is none.
 * And both lose a cell that is run while its page still opens: there is no session yet, so they start one of their own,
 * beside that which the page is about to start, and one of the two is shut down with the cell in it. Also, nbmodel shows
 * outputs as they come only once its settings have been read.
 *
 * An extension's container, written by hand as that of @kernelring/words, with its only plugin in it.
 */
"use strict";
(() => {
  const beginnings = new WeakMap(); // by session: settled when it has begun, or failed to
  let scope = {};

  /* One of the page's own modules, which core has loaded already. */
  async function shared(name) {
    const versions = Object.values(scope[name] ?? {});
    const one = versions.find((version) => version.loaded || version.eager) ?? versions[0];
    if (!one) throw new Error(`@kernelring/star: this page does not share ${name}`);
    return (await one.get())();
  }

  function show(cell, state) {
    if (!cell.isDisposed && cell.model.sharedModel.executionState !== state) {
      cell.model.sharedModel.executionState = state;
    }
  }

  /* Ask for the page's session, as the notebook does itself, but not after it has looked after the file's checkpoints. */
  async function begin(context) {
    await context.ready; // until then there is a cell to be seen, which is none of the notebook's
    const { model, sessionContext: session } = context;
    if (session.isReady) return;
    const name = model.defaultKernelName || session.kernelPreference.name;
    session.kernelPreference = { ...session.kernelPreference, name, language: model.defaultKernelLanguage };
    await session.initialize();
  }

  /* Until the page has its session, or has none to wait for. */
  async function begun(session) {
    if (session && !session.isReady) await Promise.race([session.ready, beginnings.get(session)]);
  }

  function patient(run, settings) {
    return async (options) => {
      const { cell, sessionContext } = options;
      if (cell.model.type !== "code") return run(options);
      show(cell, "running");
      try {
        await settings;
        await begun(sessionContext);
        return cell.isDisposed ? false : await run(options);
      } finally {
        show(cell, "idle");
      }
    };
  }

  async function extension() {
    const { INotebookCellExecutor, INotebookTracker } = await shared("@jupyterlab/notebook");
    const { ISettingRegistry } = await shared("@jupyterlab/settingregistry");
    const plugin = {
      id: "@kernelring/star:plugin",
      description: "Lets a cell wait for its kernel, and shows that it waits or runs.",
      autoStart: true,
      requires: [INotebookCellExecutor, INotebookTracker, ISettingRegistry],
      activate: (_, executor, tracker, registry) => {
        const settings = registry.load("@datalayer/jupyter-server-nbmodel:notebook-cell-executor").catch(() => undefined);
        const opened = ({ context }) =>
          beginnings.set(context.sessionContext, begin(context).catch(() => undefined)); // the notebook says what fails
        tracker.forEach(opened);
        tracker.widgetAdded.connect((_, panel) => opened(panel));
        executor.runCell = patient(executor.runCell.bind(executor), settings);
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
