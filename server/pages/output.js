// What a cell wrote, as elements: streams, results, errors, images.

import { el } from "./dom.js";

const SHOWN_CHARS = 200000; // of one stream; the browser would choke on megabytes
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])/g;
const IMAGES = ["image/png", "image/jpeg", "image/gif"];

/** Text without the terminal's colours. */
export const plain = (text) => text.replace(ESCAPES, "");

/** The outputs of one cell. `show(message)` appends what an iopub message says. */
export class Outputs {
  constructor() {
    this.node = el("div", { class: "outputs" });
    this._stream = null;
    this._clearNext = false;
  }

  show({ header, content }) {
    switch (header.msg_type) {
      case "stream": return this._write(content.name, content.text);
      case "execute_result":
      case "display_data": return this.add(picture(content.data) || text(content.data));
      case "error": return this.add(errorText(content));
      case "clear_output": return this._clear(content.wait);
      default: return undefined;
    }
  }

  /** Append an element, such as a question. */
  add(node) {
    this._clearIfAsked();
    this._stream = null;
    this.node.append(node);
  }

  _write(name, added) {
    this._clearIfAsked();
    if (this._stream?.name !== name) {
      const pre = el("pre", { class: name === "stderr" ? "stderr" : "stdout" }, "");
      this.node.append(pre);
      this._stream = { name, pre, text: "", left: 0, drawn: true };
    }
    const stream = this._stream;
    const text = stream.text + plain(added);
    stream.text = added.includes("\r") || stream.text.endsWith("\r") ? overwritten(text) : text;
    if (stream.text.length > 2 * SHOWN_CHARS) shorten(stream);
    if (stream.drawn) requestAnimationFrame(() => draw(stream)); // once a frame, however many messages come
    stream.drawn = false;
  }

  _clear(wait) {
    this._clearNext = Boolean(wait);
    if (!wait) this._empty();
  }

  _clearIfAsked() {
    if (this._clearNext) this._empty();
  }

  _empty() {
    this._clearNext = false;
    this._stream = null;
    this.node.replaceChildren();
  }
}

function draw(stream) {
  stream.drawn = true;
  shorten(stream);
  const note = stream.left ? `[… ${stream.left} earlier characters are not shown here]\n` : "";
  stream.pre.firstChild.data = note + stream.text;
}

function shorten(stream) {
  const surplus = stream.text.length - SHOWN_CHARS;
  if (surplus <= 0) return;
  stream.left += surplus;
  stream.text = stream.text.slice(surplus);
}

/** A "\r" goes back to the line's start, so a progress bar is one line. One at a line's end waits for what follows. */
function overwritten(text) {
  return text.split("\n").map((line) => {
    let end = line.length;
    while (line[end - 1] === "\r") end -= 1;
    return end ? line.slice(line.lastIndexOf("\r", end - 1) + 1) : line;
  }).join("\n");
}

function picture(data) {
  const kind = IMAGES.find((each) => typeof data[each] === "string");
  if (!kind) return null;
  return el("img", { src: `data:${kind};base64,${data[kind].replace(/\s/g, "")}`, alt: data["text/plain"] || "Image" });
}

function text(data) {
  const shown = data["text/plain"];
  if (typeof shown === "string") return el("pre", { class: "result" }, plain(shown));
  return el("p", { class: "quiet" }, `This page cannot show ${Object.keys(data).join(", ") || "this output"}.`);
}

function errorText({ ename, evalue, traceback }) {
  const lines = traceback?.length ? traceback.join("\n") : `${ename}: ${evalue}`;
  return el("pre", { class: "error" }, plain(lines));
}
