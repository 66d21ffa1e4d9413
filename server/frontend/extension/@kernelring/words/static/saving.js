/* A cell that is run is on disk at once, so that whoever closes the lid right after finds it, and what it has come to.
 *
 * Owns that saving, which never asks and never complains: what stands in its way is said when the notebook is saved
 * next by its user or by itself. The run does not wait for it. Everything else about saving is the front end's.
 */

const SOON_MS = 200; // the run's own request goes first
const REST = 2; // a notebook that takes long to save rests twice as long
const LONGEST_REST_MS = 10_000;

/** The plugin. `shared` gives the page's own modules by name. */
export async function plugins(shared) {
  const { INotebookTracker, NotebookActions } = await shared("@jupyterlab/notebook");
  return [
    {
      id: "@kernelring/words:saving",
      description: "Saves a notebook when one of its cells is run.",
      autoStart: true,
      requires: [INotebookTracker],
      activate: (app, tracker) => {
        const savers = new WeakMap();
        NotebookActions.executionScheduled.connect((_, { notebook }) => {
          const panel = tracker.find((one) => one.content === notebook);
          if (!panel) return;
          if (!savers.has(panel.context)) savers.set(panel.context, new Saver(panel.context));
          savers.get(panel.context).want();
        });
      },
    },
  ];
}

/** Saves one notebook, one time after another, and never beside a saving of the front end's: each would take the
 * other's for a change by somebody else. */
class Saver {
  constructor(context) {
    this.context = context;
    this.quiet = quietly(context);
    this.timer = 0; // while one is coming or going on
    this.again = false;
    this.refused = false; // by a conflict: nothing goes to disk until its user has settled that
    this.restUntil = 0;
    [this.ours, this.theirs] = [Promise.resolve(), Promise.resolve()];
    this.plainSave = context.save;
    context.save = () => this.saveOfTheirs();
    context.saveState.connect((_, state) => (this.refused &&= state !== "completed"));
    context.fileChanged.connect(() => (this.refused = false)); // the version on disk was loaded
  }

  saveOfTheirs() {
    const saved = this.ours.then(() => this.plainSave.call(this.context));
    this.theirs = saved.catch(() => undefined); // its caller is told
    return saved;
  }

  want() {
    this.again = Boolean(this.timer);
    this.timer ||= setTimeout(() => this.save(), Math.max(SOON_MS, this.restUntil - performance.now()));
  }

  async save() {
    this.again = false;
    await this.theirs;
    const begun = performance.now();
    if (this.isDue()) await (this.ours = this.tried());
    const now = performance.now();
    this.restUntil = now + Math.min(REST * (now - begun), LONGEST_REST_MS);
    this.timer = 0;
    if (this.again) this.want();
  }

  isDue() {
    const { context, quiet, refused } = this;
    return quiet && !refused && !context.isDisposed && context.canSave && context.model.dirty;
  }

  async tried() {
    try {
      await this.plainSave.call(this.quiet);
    } catch (error) {
      this.refused = error.name === CONFLICT; // anything else is tried again with the next cell, and by Jupyter itself
    }
  }
}

const CONFLICT = "ModalCancelError"; // what Jupyter calls it when its user does not decide: then it says no more

/* The context, but for its two dialogs. They have no public names; without them nothing is saved here. */
function quietly(context) {
  const mute = {
    _raiseConflict: () => Promise.reject(Object.assign(new Error("Changed on disk"), { name: CONFLICT })),
    _handleError: () => Promise.resolve(),
  };
  if (Object.keys(mute).some((name) => typeof context[name] !== "function")) return null;
  return new Proxy(context, { get: (target, name, self) => mute[name] ?? Reflect.get(target, name, self) });
}
