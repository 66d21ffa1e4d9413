// What README's page uses of @jupyterlab/services, said over the wire as that library says it: requests with an
// Authorization header, a WebSocket with ?token=. So the page can be tried where there is no npm.

class ServerConnection {
  static makeSettings({ baseUrl, token, appendToken }) {
    return { baseUrl, token, appendToken, wsUrl: "ws" + baseUrl.slice(4) };
  }
}

class KernelManager {
  constructor({ serverSettings }) {
    this.settings = serverSettings;
  }
}

class SessionManager {
  constructor({ serverSettings }) {
    this.settings = serverSettings;
  }

  async startNew(model) {
    const { baseUrl, token } = this.settings;
    const answer = await fetch(`${baseUrl}api/sessions?${Date.now()}`, {
      method: "POST",
      body: JSON.stringify(model),
      cache: "no-store",
      credentials: "same-origin",
      headers: { Authorization: `token ${token}`, "Content-Type": "application/json" },
    });
    if (answer.status !== 201) throw new Error((await answer.json()).message);
    return { kernel: await new Kernel(this.settings, (await answer.json()).kernel.id).opened };
  }
}

class Kernel {
  #client = crypto.randomUUID();
  #cells = new Map();

  constructor({ wsUrl, token, appendToken }, id) {
    const credential = appendToken ? `&token=${encodeURIComponent(token)}` : "";
    this.socket = new WebSocket(`${wsUrl}api/kernels/${id}/channels?session_id=${this.#client}${credential}`);
    this.socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.opened = new Promise((resolve, reject) => {
      this.socket.onopen = () => resolve(this);
      this.socket.onerror = () => reject(new Error("The WebSocket was refused"));
    });
  }

  requestExecute(content) {
    const cell = {};
    cell.done = new Promise((resolve) => (cell.finish = resolve));
    const defaults = { silent: false, store_history: true, user_expressions: {}, stop_on_error: true };
    this.#cells.set(this.#send("shell", "execute_request", { ...defaults, ...content }), cell);
    return cell;
  }

  sendInputReply(content) {
    this.#send("stdin", "input_reply", content);
  }

  #send(channel, msg_type, content) {
    const msg_id = crypto.randomUUID();
    const date = new Date().toISOString();
    const header = { msg_id, msg_type, date, session: this.#client, username: "", version: "5.3" };
    this.socket.send(JSON.stringify({ channel, header, content, parent_header: {}, metadata: {}, buffers: [] }));
    return msg_id;
  }

  // A cell is done when its reply and the idle status are both there.
  #receive(message) {
    const cell = this.#cells.get(message.parent_header.msg_id);
    if (!cell) return;
    if (message.channel === "iopub") cell.onIOPub?.(message);
    if (message.channel === "stdin") cell.onStdin?.(message);
    cell.idle ||= message.header.msg_type === "status" && message.content.execution_state === "idle";
    cell.reply ||= message.channel === "shell" && message;
    if (cell.idle && cell.reply) cell.finish(cell.reply);
  }
}

export default { ServerConnection, KernelManager, SessionManager };
