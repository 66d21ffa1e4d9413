// What a page notes of itself for local/bench, in milliseconds since its navigation started. It runs before the page's
// own scripts, looks once a frame, and touches nothing but the focus, when it is told to.
(() => {
  const bench = (window.bench = {});
  const shown = selector =>
    [...document.querySelectorAll(selector)].some(node => node.getClientRects().length > 0);
  const editor = () => document.querySelector('.jp-Notebook .jp-CodeCell .cm-content');
  const output = () => document.querySelector('.jp-Notebook .jp-OutputArea-output');

  const seen = {
    listed: () => shown('.jp-DirListing-item'),
    ready: () =>
      shown('.jp-Notebook .jp-CodeCell .cm-content') &&
      shown('.jp-NotebookPanel-toolbar [data-jp-item-name="run"]') &&
      !document.querySelector('#jupyterlab-splash'),
    output: () => output()?.textContent.includes('first output')
  };

  Object.defineProperties(bench, {
    // Whether a key that was pressed had an effect: the cell waits, or has been run.
    taken: {
      value: () => Boolean(output()) || document.querySelector('.jp-InputPrompt').textContent.includes('*')
    },
    // As a click does.
    focusCell: { value: () => editor().focus() }
  });

  window.addEventListener(
    'keydown',
    event => {
      if (event.key === 'Enter') {
        bench.pressed ??= performance.now();
      }
    },
    true
  );

  const look = () => {
    for (const [name, there] of Object.entries(seen)) {
      if (!bench[name] && there()) {
        bench[name] = performance.now();
      }
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})();
