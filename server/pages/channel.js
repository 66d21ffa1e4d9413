// The WebSocket to one kernel: connects, and comes back when a worker ends. Knows nothing of cells.

import { SUBPROTOCOL, pack, unpack } from "./frames.js";

const NOT_AGAIN = 1000; // the kernel is gone; after every other code the server wants us back
const PAUSES_MS = [100, 250, 500, 1000, 2000, 4000, 8000];
const REMEMBERED = 2000; // after a reconnect the last messages may come twice, with their old ids

/** Random hex. `crypto.randomUUID` is missing on a page without TLS. */
export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Channel {
  /** `onMessage(message)`; `onLink(state, why)` with the state "connecting", "open", "broken" or "closed". */
  constructor(kernelId, { onMessage, onLink }) {
    this.session = randomId();
    this.state = "connecting";
    this._address = `/api/kernels/${kernelId}/channels?session_id=${this.session}`;
    this._onMessage = onMessage;
    this._onLink = onLink;
    this._unsent = [];
    this._seen = new Set();
    this._tries = 0;
    this._connect();
  }

  /** Send, now or as soon as there is a connection; return the message's header. */
  send(channel, msgType, content, parent = {}) {
    const header = {
      msg_id: randomId(),
      msg_type: msgType,
      session: this.session,
      username: "",
      date: new Date().toISOString(),
      version: "5.4",
    };
    const frame = pack({ channel, header, parent_header: parent, metadata: {}, content });
    if (this._socket.readyState === WebSocket.OPEN) this._socket.send(frame);
    else this._unsent.push(frame);
    return header;
  }

  /** The server is known to answer: do not wait out the pause. */
  hurry() {
    if (this.state === "broken" && this._socket.readyState === WebSocket.CLOSED) this._connect();
  }

  close(why = "") {
    clearTimeout(this._timer);
    this._enter("closed", why);
    this._socket.close(NOT_AGAIN);
  }

  _connect() {
    clearTimeout(this._timer);
    // The session's id stays the same: the owner has kept this client's place in the output.
    const address = new URL(this._address, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this._socket = new WebSocket(address, SUBPROTOCOL);
    this._socket.binaryType = "arraybuffer";
    this._socket.addEventListener("open", () => this._opened());
    this._socket.addEventListener("message", (event) => this._received(event.data));
    this._socket.addEventListener("close", (event) => this._lost(event));
  }

  _opened() {
    if (this.state === "closed") return;
    this._enter("open");
    for (const frame of this._unsent.splice(0)) this._socket.send(frame);
  }

  _received(data) {
    if (this.state === "closed") return;
    this._tries = 0; // not at "open": a server that takes us and sends us away at once would be asked without a pause
    const message = unpack(data);
    const id = message.header.msg_id;
    if (this._seen.has(id)) return;
    this._seen.add(id);
    if (this._seen.size > REMEMBERED) this._seen.delete(this._seen.values().next().value);
    this._onMessage(message);
  }

  _lost({ code, reason }) {
    if (this.state === "closed") return;
    if (code === NOT_AGAIN) {
      this._enter("closed", reason);
      return;
    }
    const pause = PAUSES_MS[Math.min(this._tries, PAUSES_MS.length - 1)];
    this._tries += 1;
    this._enter("broken", reason);
    // Some more or less, so that a class of students does not come back in one instant.
    this._timer = setTimeout(() => this._connect(), pause * (0.75 + Math.random() / 2));
  }

  _enter(state, why = "") {
    this.state = state;
    this._onLink(state, why);
  }
}
