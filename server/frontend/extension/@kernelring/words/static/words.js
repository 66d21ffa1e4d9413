/* What a student reads when something goes wrong: one quiet line at the top of the notebook, and no dialogs.
 *
 * Owns that line: when it comes, what it says, when it goes. Says nothing of what a cell says itself. `Watch` follows
 * the kernel of one notebook; `Line` is what is seen. Both stock front ends have all that is used here; the two places
 * where something of theirs is used that has no public name say so, and do without when it is not there.
 */

const AWAY_MS = 800; // a worker that is replaced costs less than that: not worth a word
const ASK_MS = 2000; // between two questions to a server that does not answer
const BRIEF_MS = 4000;
const MINE = "kernelring"; // the username of messages that the server has made itself
const TAG = /^\[kernelring\] /gm; // how the server marks its words for clients that mix them with a cell's output

const SAYS = {
  away: "Reconnecting to your kernel. What runs goes on; nothing is lost.",
  back: "Connected again.",
  gone: "Your kernel has ended, and its variables are lost. Your notebooks are on disk.",
  loggedOut: "Your login has ended. Log in again in another tab; this page then goes on. What runs goes on meanwhile.",
  unreached: "The server cannot be reached just now. This page goes on by itself when it is back.",
  lost: "Variables are lost; your notebooks are on disk.",
  started: "Your kernel has started.", // the server's own words, to those who were told that it waits
};

/** The plugins. `shared` gives the page's own modules by name. */
export async function plugins(shared) {
  const [{ IConnectionLost }, { INotebookTracker }, { Widget }, { ServerConnection }, { Notification }] =
    await Promise.all([
      shared("@jupyterlab/application"),
      shared("@jupyterlab/notebook"),
      shared("@lumino/widgets"),
      shared("@jupyterlab/services"),
      shared("@jupyterlab/apputils"),
    ]);
  const Line = lineOf(Widget);
  return [
    {
      id: "@kernelring/words:notebook",
      description: "Says in the notebook what has become of its kernel.",
      autoStart: true,
      requires: [INotebookTracker],
      activate: (app, tracker) => {
        const settings = app.serviceManager.serverSettings;
        const ask = (id) => ServerConnection.makeRequest(`${settings.baseUrl}api/kernels/${id}`, {}, settings);
        const { user } = app.serviceManager;
        const watch = (panel) => {
          panel.revealed.then(() => requestAnimationFrame(() => focus(panel)));
          return new Watch(panel, new Line(panel), ask, user);
        };
        tracker.forEach(watch);
        tracker.widgetAdded.connect((_, panel) => watch(panel));
      },
    },
    {
      id: "@kernelring/words:connection-lost",
      description: "In place of the dialog 'Server Connection Error': a note that goes away by itself.",
      autoStart: true,
      provides: IConnectionLost,
      activate: () => connectionLost(Notification),
    },
  ];
}

/* The spinner that stands for a notebook until it is there has the focus, and hands it on. With a line above the
 * notebook that is lost in Notebook 7 (seen in 7.6), and who works with the keyboard would be nowhere. */
function focus(panel) {
  if (document.activeElement === document.body && panel.isVisible) panel.content.activate();
}

/** In a page with a notebook its line says it; elsewhere a note does. Asked at every poll that fails. */
function connectionLost(Notification) {
  let shown = "";
  return async () => {
    const inNotebook = [...document.querySelectorAll(".kr-Line")].some((node) => node.offsetParent);
    if (inNotebook || Notification.manager.has(shown)) return;
    shown = Notification.emit(SAYS.unreached, "info", { autoClose: 2 * BRIEF_MS });
  };
}

/** The class of the line: what is said of the connection stands before the news until it is over. */
function lineOf(Widget) {
  return class Line extends Widget {
    constructor(panel) {
      super();
      this.addClass("kr-Line");
      this.said = { link: "", news: "" };
      this.timers = {}; // of what goes by itself
      this.onNew = null;
      this.row = this.node.appendChild(document.createElement("div"));
      this.text = this.row.appendChild(document.createElement("span"));
      this.text.className = "kr-Line-text";
      this.text.setAttribute("role", "status");
      this.text.setAttribute("aria-live", "polite");
      this.fresh = this.button("New kernel", "Start a new kernel for this notebook", () => this.onNew?.());
      this.button("Dismiss", "Dismiss this message", () => this.say(this.said.link ? "link" : "news", ""));
      panel.contentHeader.addWidget(this);
      this.show_();
    }

    button(label, title, onClick) {
      const button = this.row.appendChild(document.createElement("button"));
      Object.assign(button, { type: "button", textContent: label, title });
      button.addEventListener("click", onClick);
      return button;
    }

    /** `kind`: link or news. `onNew`: what the button "New kernel" does; none, no button. `brief`: it goes by itself. */
    say(kind, text, { onNew = null, brief = false } = {}) {
      clearTimeout(this.timers[kind]);
      this.said[kind] = text;
      if (kind === "news") this.onNew = onNew;
      if (brief) this.timers[kind] = setTimeout(() => this.say(kind, ""), BRIEF_MS);
      this.show_();
    }

    show_() {
      const { link, news } = this.said;
      const text = link || news;
      this.row.className = `kr-Line-row ${link ? "kr-mod-link" : "kr-mod-news"} ${text ? "" : "kr-mod-empty"}`;
      if (this.text.textContent !== text) this.text.textContent = text;
      this.fresh.hidden = Boolean(link) || !this.onNew;
      this.measure();
    }

    /* Lumino's boxes are as high as they are told, and the text wraps. */
    measure() {
      const height = `${Math.ceil(this.row.getBoundingClientRect().height)}px`;
      if (this.isDisposed || this.node.style.minHeight === height) return;
      this.node.style.minHeight = height;
      this.parent?.fit();
    }

    onAfterAttach() {
      this.measure();
    }

    onAfterShow() {
      this.measure();
    }

    onResize() {
      requestAnimationFrame(() => this.measure());
    }
  };
}

/** Follows the kernel of one notebook. */
class Watch {
  constructor(panel, line, ask, user) {
    Object.assign(this, { panel, line, ask, user });
    this.context = panel.sessionContext;
    this.kernel = null; // the connection to the kernel of now
    this.id = ""; // and its id, which is kept when the connection has gone
    this.met = false; // whether this page was ever connected to it
    this.ours = false; // whether it is ended from this page
    this.context.kernelChanged.connect(() => this.take());
    this.context.statusChanged.connect((_, status) => this.status(status));
    this.context.connectionStatusChanged.connect((_, status) => this.link(status));
    this.context.sessionChanged.connect((_, { newValue }) => newValue || this.gone());
    panel.disposed.connect(() => clearTimeout(this.timer));
    quietPanel(panel);
    // Whose notebook it is, the page knows a moment later; only then can what it had before be looked up.
    this.before = Promise.all([panel.context.ready, user.ready]).then(() => localStorage.getItem(this.key));
    this.before.then((id) => this.remembered(id));
    this.take();
  }

  /** Another kernel is the notebook's now, or none. */
  take() {
    const kernel = this.context.session?.kernel ?? null;
    if (kernel) this.ours = false;
    if (kernel === this.kernel) return;
    this.kernel = kernel;
    if (!kernel) return;
    if (kernel.id !== this.id && this.met) this.line.say("news", "");
    [this.id, this.met] = [kernel.id, false];
    this.remember();
    keepTimer(kernel);
    // Not the context's iopubMessage: a message is left out there when one of another sender comes right behind it.
    kernel.anyMessage.connect((_, { msg, direction }) => direction === "recv" && this.heard(msg));
    this.link(kernel.connectionStatus);
  }

  /** The server's own words, when they belong to no cell. A restart that this page has asked for is no news. */
  heard({ header, parent_header: parent, content }) {
    if (header.username !== MINE || header.msg_type !== "stream" || parent?.msg_id || this.ours) return;
    const text = content.text.replace(TAG, "").trim();
    this.line.say("news", text, { brief: text === SAYS.started });
  }

  status(status) {
    // A restart that was asked for here is told before the kernel has that status; one that the server makes, after.
    this.ours ||= status === "terminating" || (status === "restarting" && this.kernel?.status !== status);
    if (status === "terminating") this.forget();
    if (status === "dead") this.gone();
  }

  link(status) {
    clearTimeout(this.timer);
    if (status === "connected") {
      if (this.line.said.link) this.line.say("link", SAYS.back, { brief: true });
      this.met = true;
    } else if (!this.kernel?.isDisposed && this.kernel) {
      this.timer = setTimeout(() => this.away(), this.met ? AWAY_MS : 4 * AWAY_MS);
    }
  }

  /** The connection is lost: say so, and ask the server until it is back or says what has become of the kernel. */
  async away() {
    const { kernel, id } = this;
    const { status, message, reason } = await this.asked(id);
    if (kernel !== this.kernel || kernel.isDisposed || kernel.connectionStatus === "connected") return;
    if (status === 404) {
      this.line.say("link", "");
      return this.ended(reason);
    }
    this.line.say("link", { 403: SAYS.loggedOut, 401: SAYS.loggedOut, 503: message }[status] || SAYS.away);
    // The front end's own next try may be half a minute off, or it has given up after the seventh.
    if (status === 200 && isIdle(kernel)) kernel.reconnect().catch(() => undefined); // the next round tells what came of it
    this.timer = setTimeout(() => this.away(), ASK_MS);
  }

  /** The kernel of this page is not there any more, or is dead: say why, if it is news. */
  async gone() {
    const { id, ours, met } = this;
    if (!id || !met || ours || this.panel.isDisposed) return;
    clearTimeout(this.timer);
    const { status, reason } = await this.asked(id);
    this.line.say("link", "");
    if (status === 404) this.ended(reason);
    else if (this.line.said.news) this.line.say("news", this.line.said.news, { onNew: () => this.renew() });
  }

  /** `reason`: the server's sentence; "" when its user ended it; null when the server does not know. */
  ended(reason) {
    this.forget();
    if (reason === "" || this.panel.isDisposed) return;
    const text = reason ? `${reason} ${SAYS.lost}` : SAYS.gone;
    const hasNew = this.kernel && this.kernel.id !== this.id;
    this.line.say("news", text, { onNew: hasNew ? null : () => this.renew() });
  }

  /* A session that the server has no more must go first: a kernel is not started in it. What then goes is no news. */
  async renew() {
    const name = this.kernel?.name || this.context.prevKernelName;
    this.id = "";
    this.line.say("news", "");
    try {
      await this.context.sessionManager.refreshRunning();
      await this.context.changeKernel({ name });
    } catch (error) {
      this.line.say("news", error.message, { onNew: () => this.renew() });
    }
  }

  /** The status of `GET /api/kernels/{id}` (0: nobody answers), and what a refusal says. */
  async asked(id) {
    try {
      const response = await this.ask(id);
      const said = response.ok ? {} : await response.json().catch(() => ({}));
      return { status: response.status, message: said.message, reason: said.reason ?? null };
    } catch {
      return { status: 0 };
    }
  }

  /* Which kernel a notebook had, so that it can be asked for when the page is opened again and it has another. Noted as
   * soon as it has one: cells run before the page is connected to it, and the page may be gone before that. */

  get key() {
    return `kernelring:kernel:${this.user.identity?.username ?? ""}:${this.panel.context.path}`;
  }

  async remember() {
    const { id } = this;
    await this.before;
    if (id === this.id) localStorage.setItem(this.key, id);
  }

  async forget() {
    await this.before;
    localStorage.removeItem(this.key);
  }

  async remembered(before) {
    if (!before) return;
    const { status, reason } = await this.asked(before);
    if (status !== 404) return;
    if (this.id === before) return; // the page has seen its end itself
    if (localStorage.getItem(this.key) === before) this.forget();
    if (reason !== "" && !this.line.said.news) this.line.say("news", reason ? `${reason} ${SAYS.lost}` : SAYS.gone);
  }
}

/* The panel's dialog "Kernel Restarting: the kernel appears to have died" tells less than the line, and has to be
 * clicked away. Its slot has no public name; without it the dialog stays. */
function quietPanel(panel) {
  const slot = panel._onSessionStatusChanged;
  if (typeof slot === "function") panel.sessionContext.statusChanged.disconnect(slot, panel);
}

/* Whether no socket is on its way: one that waits for a kernel to move must not be cut. `_ws` is no public name. */
function isIdle(kernel) {
  if (!("_ws" in kernel)) return kernel.connectionStatus === "disconnected";
  return kernel._ws?.readyState !== WebSocket.CONNECTING;
}

/* While a server is away the connection waits 10 to 30 s, and then reconnects even if it was reconnected meanwhile:
 * a socket that works would be closed. What concerns a socket of before is left out. No public name either. */
function keepTimer(kernel) {
  const closed = kernel._onWSClose;
  if (typeof closed !== "function" || !("_ws" in kernel)) return;
  kernel._onWSClose = (event) => {
    if (event.target === kernel._ws) closed(event);
  };
}
