// "Try it": sends code to the chosen kernel and keeps the runs together with their messages.

import { read } from "./api.js";
import { Channel } from "./channel.js";
import { byId, el, setOptions, setText, shortName } from "./dom.js";
import { Run } from "./run.js";

const KEPT_RUNS = 50;
const SILENT_MS = 5000; // idle for so long after a broken connection: what was missed does not come any more
const NEW = "new";
const LINK_WORDS = { connecting: "connecting …", open: "connected", broken: "connection lost, coming back …", closed: "" };

export class Console {
  /** `startKernel()` resolves to the id of a new kernel. */
  constructor(startKernel) {
    this._startKernel = startKernel;
    this._links = new Map(); // kernel id -> {channel, runs: msg_id -> Run, missing: looks without it, opened_at}
    this._names = new Map();
    this._target = byId("target");
    this._target.addEventListener("change", () => this._tellLink());
    byId("cell").addEventListener("submit", (event) => { event.preventDefault(); this._submit(); });
    byId("code").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.shiftKey || event.metaKey)) return;
      event.preventDefault();
      this._submit();
    });
  }

  /** What the server says about my kernels: every refresh. `names`: id -> {full, …}. */
  follow(kernels, names) {
    this._names = names;
    const options = kernels.map(({ id }) => [id, names.get(id).full]);
    setOptions(this._target, options.length ? options : [[NEW, "a new kernel"]]);
    for (const [id, link] of this._links) {
      const kernel = kernels.find((each) => each.id === id);
      if (kernel) link.channel.hurry();
      link.missing = kernel ? 0 : link.missing + 1;
      if (link.missing > 1) this._forget(id, "The kernel has been shut down.");
      else if (kernel?.execution_state === "idle" && link.channel.state === "open") endDoubtful(link);
    }
    this._tellLink();
  }

  choose(id) {
    if (this._names.has(id)) this._target.value = id;
  }

  async _submit() {
    const code = byId("code").value;
    if (!code.trim() || this._starting) return;
    let id = this._target.value;
    if (id === NEW || !id) {
      this._starting = true;
      setText(byId("link"), "starting a kernel …");
      id = await this._startKernel();
      this._starting = false;
      if (!id) return this._tellLink();
    }
    return this._execute(id, code);
  }

  _execute(id, code) {
    this._closeOthers(id);
    const link = this._link(id);
    let asked = null;
    const run = new Run(code, this._names.get(id)?.full || "", (value, request) => {
      link.channel.send("stdin", "input_reply", { status: "ok", value }, request);
    });
    run.onEnd = () => { link.runs.delete(asked); this._tellRoute(run, id); };
    const content = {
      code, silent: false, store_history: true, user_expressions: {}, allow_stdin: true, stop_on_error: true,
    };
    asked = link.channel.send("shell", "execute_request", content).msg_id;
    link.runs.set(asked, run);
    this._append(run.node);
  }

  _link(id) {
    const known = this._links.get(id);
    if (known && known.channel.state !== "closed") return known;
    const link = { runs: new Map(), missing: 0, opened_at: 0 };
    link.channel = new Channel(id, {
      onMessage: (message) => this._take(link, message),
      onLink: (state, why) => this._linkIs(link, state, why),
    });
    this._links.set(id, link);
    this._tellLink();
    return link;
  }

  _take(link, message) {
    const asked = message.parent_header.msg_id;
    this._keepAtEnd();
    if (asked) link.runs.get(asked)?.take(message);
    else if (message.header.msg_type === "stream") this._append(el("pre", { class: "stderr" }, message.content.text));
  }

  _linkIs(link, state, why) {
    if (state === "open") link.opened_at = Date.now();
    if (state === "broken") for (const run of link.runs.values()) run.doubtful = true;
    if (state === "closed") for (const run of [...link.runs.values()]) run.end(why || "The kernel is gone.");
    if (link.channel) this._tellLink();
  }

  _tellLink() {
    const link = this._links.get(this._target.value);
    if (!this._starting) setText(byId("link"), link ? LINK_WORDS[link.channel.state] : "");
  }

  /** Who owns the kernel, and through whom a request comes in just now: a script does not see the WebSocket's own answer. */
  async _tellRoute(run, id) {
    try {
      const { headers } = await read(`/api/kernels/${id}`);
      const owner = headers.get("X-Kernelring-Owner");
      const entry = headers.get("X-Kernelring-Entry");
      this._keepAtEnd();
      if (owner && entry) run.route(routeSentence(shortName(owner), shortName(entry)));
    } catch {
      run.route(""); // the kernel is gone; the page says so elsewhere
    }
  }

  _forget(id, why) {
    const { channel } = this._links.get(id);
    this._links.delete(id);
    channel.close(why);
  }

  _closeOthers(id) {
    for (const [other, { runs }] of [...this._links]) if (other !== id && runs.size === 0) this._forget(other, "");
  }

  _append(node) {
    const runs = byId("runs");
    runs.append(node);
    while (runs.children.length > KEPT_RUNS) runs.firstElementChild.remove();
    this._scroll();
  }

  /** Before something is added: who reads the end goes on reading the end. Looked at once a frame. */
  _keepAtEnd() {
    if (this._following) return;
    const { scrollHeight, scrollTop, clientHeight } = byId("runs");
    if (scrollHeight - scrollTop - clientHeight > 40) return;
    this._following = true;
    // The second frame: the outputs draw themselves in the first.
    requestAnimationFrame(() => requestAnimationFrame(() => {
      this._following = false;
      this._scroll();
    }));
  }

  _scroll() {
    byId("runs").scrollTop = byId("runs").scrollHeight;
  }
}

function routeSentence(owner, entry) {
  const way = entry === owner ? "at the owner itself" : `through ${entry}, which passed it on`;
  return `Owner ${owner}. This page's last request entered ${way}.`;
}

function endDoubtful({ runs, opened_at: opened }) {
  for (const run of [...runs.values()]) {
    if (run.doubtful && Date.now() - Math.max(run.heard_at, opened) > SILENT_MS) {
      run.end("The kernel is idle, but the connection broke meanwhile: output may be missing here. Variables are kept.");
    }
  }
}
