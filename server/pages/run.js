// One run of a cell: its code, how far it is, its outputs, its questions, and which workers it went through.

import { el, setText } from "./dom.js";
import { Outputs } from "./output.js";

export class Run {
  /** `answer(text, request)` sends the answer to an input request, whose header is `request`. */
  constructor(code, label, answer) {
    this.over = false;
    this.doubtful = false; // the connection broke while it ran
    this.heard_at = Date.now();
    this._answer = answer;
    this._began = Date.now();
    this._prompt = el("span", { class: "count" }, "In [*]");
    this._state = el("span", { class: "run-state" }, "waiting");
    this._outputs = new Outputs();
    this._route = el("p", { class: "route quiet" });
    this._question = null;
    this.node = el(
      "article",
      { class: "run" },
      el("p", { class: "run-head" }, this._prompt, el("span", { class: "quiet" }, label), this._state),
      el("pre", { class: "code" }, code),
      this._outputs.node,
      this._route,
    );
  }

  /** A message that answers this run. */
  take({ channel, header, content }) {
    this.heard_at = Date.now();
    const type = header.msg_type;
    if (type === "status" && content.execution_state === "busy") this._tell("running");
    else if (type === "status" && content.execution_state === "idle") this.end();
    else if (type === "execute_input") this._count(content.execution_count);
    else if (type === "execute_reply") this._reply(content);
    else if (type === "input_request") this._ask(content, header);
    else if (channel === "iopub") this._outputs.show({ header, content });
    if (type === "error") this._failed = true;
  }

  /** Nothing more will come. `why`: a sentence, when that is not as it should be. */
  end(why = "") {
    if (this.over) return;
    this.over = true;
    this._withdraw();
    if (why) this._outputs.add(el("p", { class: "quiet" }, why));
    const seconds = ((Date.now() - this._began) / 1000).toFixed(1);
    this._tell(why ? "ended" : `${this._failed ? "failed" : "done"}, ${seconds} s`);
    this.onEnd?.();
  }

  route(sentence) {
    setText(this._route, sentence);
  }

  _tell(state) {
    setText(this._state, state);
  }

  _count(count) {
    if (Number.isInteger(count)) setText(this._prompt, `In [${count}]`);
  }

  _reply({ status, execution_count: count }) {
    this._count(count);
    if (status === "ok" || this._failed) return;
    this._failed = true;
    if (status === "aborted" && !this.over) this.end("Not run: a cell before it failed.");
  }

  _ask({ prompt, password }, request) {
    this._withdraw();
    const field = el("input", { type: password ? "password" : "text", autocomplete: "off", spellcheck: "false" });
    const label = el("label", {}, el("span", {}, prompt || "The cell asks for a line of text:"), field);
    const send = (event) => {
      event.preventDefault();
      this._question = null;
      const shown = password ? "•".repeat(Math.min(field.value.length, 8)) : field.value;
      form.replaceWith(el("pre", { class: "stdout" }, `${prompt}${shown}`));
      this._answer(field.value, request);
      this._tell("running");
    };
    const form = el("form", { class: "question line", onsubmit: send }, label, el("button", {}, "Send"));
    this._question = form;
    this._outputs.add(form);
    this._tell("waits for your input");
    const mine = [null, document.body, document.getElementById("code"), document.getElementById("runs")];
    if (mine.includes(document.activeElement) || document.activeElement.closest("#cell")) field.focus();
  }

  _withdraw() {
    if (this._question) this._question.remove();
    this._question = null;
  }
}
