/* The extension's container, as webpack's module federation would have made it, written by hand: no build step.
 *
 * JupyterLab and Notebook 7 load this file, call `init` with the scope in which they share their own modules, and
 * `get` with "./extension". The plugins are in the files next to this one; what they show is styled by words.css.
 */
"use strict";
(() => {
  const here = document.currentScript.src;
  const PARTS = ["words.js", "steady.js", "saving.js", "versions.js", "narrow.js"];
  let scope = {};

  /* One of the page's own modules. Core has it loaded already; another extension may have brought a second version. */
  async function shared(name) {
    const versions = Object.values(scope[name] ?? {});
    const one = versions.find((version) => version.loaded || version.eager) ?? versions[0];
    if (!one) throw new Error(`@kernelring/words: this page does not share ${name}`);
    return (await one.get())();
  }

  async function extension() {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("words.css", here).href;
    document.head.append(style);
    const parts = await Promise.all(PARTS.map((name) => import(new URL(name, here).href)));
    const plugins = await Promise.all(parts.map((part) => part.plugins(shared)));
    return () => ({ __esModule: true, default: plugins.flat() });
  }

  window._JUPYTERLAB = window._JUPYTERLAB ?? {};
  window._JUPYTERLAB["@kernelring/words"] = {
    init(given) {
      scope = given;
    },
    get(module) {
      if (module === "./extension") return extension();
      return Promise.reject(new Error(`@kernelring/words has no ${module}`));
    },
  };
})();
