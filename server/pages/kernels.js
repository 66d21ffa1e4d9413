// The table of my kernels. A row stays the same elements from one refresh to the next, so that the focus stays too.

import { byId, el, setText } from "./dom.js";

const STATES = ["starting", "idle", "busy", "restarting", "dead"];
const COLUMNS = ["Kernel", "State", "Connections", "Last activity", "Actions"];

/** How long ago, in words. */
export function ago(when, now = Date.now()) {
  const seconds = Math.max(0, Math.round((now - when) / 1000));
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return new Date(when).toLocaleString();
}

export class KernelTable {
  /** `act(verb, kernelId)` for the verbs "interrupt", "restart" and "shutdown"; resolves when it is done. */
  constructor(act) {
    this._act = act;
    this._rows = new Map();
    this._table = byId("kernel-table");
  }

  /** Show the models of `GET /api/kernels`; `names`: id -> {kind, short, full}. */
  show(kernels, names) {
    for (const [id, row] of this._rows) if (!kernels.some((each) => each.id === id)) this._remove(id, row);
    for (const kernel of kernels) {
      if (!this._rows.has(kernel.id)) this._add(kernel, names.get(kernel.id));
      this._fill(this._rows.get(kernel.id), kernel, names.get(kernel.id));
    }
    this._table.hidden = kernels.length === 0;
    byId("no-kernels").hidden = kernels.length > 0;
    setText(byId("no-kernels"), "You have no kernels. Start one here, or run the cell below.");
  }

  _add({ id }, name) {
    const buttons = [["interrupt", "Interrupt"], ["restart", "Restart"], ["shutdown", "Shut down"]];
    const cells = [
      el("th", { scope: "row" }),
      el("td", {}, el("span", { class: "state" })),
      el("td"),
      el("td", {}, el("time")),
      el("td", { class: "actions" }, ...buttons.map(([verb, text]) => this._button(verb, text, id, name))),
    ];
    cells.forEach((cell, at) => cell.setAttribute("data-label", COLUMNS[at]));
    const row = el("tr", {}, ...cells);
    this._rows.set(id, row);
    this._table.tBodies[0].append(row);
  }

  _fill(row, kernel, name) {
    const [title, state, connections, activity] = row.cells;
    if (!title.hasChildNodes()) title.append(el("span"), el("code"));
    setText(title.firstElementChild, name.kind);
    setText(title.lastElementChild, name.short);
    const word = state.firstElementChild;
    setText(word, kernel.execution_state);
    word.className = `state ${STATES.includes(kernel.execution_state) ? kernel.execution_state : ""}`;
    setText(connections, String(kernel.connections));
    const time = activity.firstElementChild;
    time.dateTime = kernel.last_activity;
    time.title = new Date(kernel.last_activity).toLocaleString();
    setText(time, ago(Date.parse(kernel.last_activity)));
  }

  _button(verb, text, id, name) {
    const onclick = async () => {
      if (button.getAttribute("aria-disabled")) return;
      button.setAttribute("aria-disabled", "true"); // not `disabled`, which would lose the focus
      await this._act(verb, id);
      button.removeAttribute("aria-disabled");
    };
    const button = el("button", { type: "button", "aria-label": `${text} ${name.full}`, onclick }, text);
    return button;
  }

  _remove(id, row) {
    const hadFocus = row.contains(document.activeElement);
    row.remove();
    this._rows.delete(id);
    if (hadFocus) byId("kernels-title").focus();
  }
}
