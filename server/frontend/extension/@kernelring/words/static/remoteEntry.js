/* The extension's container, as webpack's module federation would have made it, written by hand: no build step.
 *
 * JupyterLab and Notebook 7 load this file, call `init` with the scope in which they share their own modules, and
 * `get` with "./extension". The plugins are in words.js, next to this file; what they show is styled by words.css.
 */
"use strict";
(() => {
  const here = document.currentScript.src;
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
    const words = await import(new URL("words.js", here).href);
    const plugins = await words.plugins(shared);
    return () => ({ __esModule: true, default: plugins });
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
