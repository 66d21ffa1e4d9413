// Requests to the server. A worker that dies takes its connections along; a request that only reads is sent again.

const TIMEOUT_MS = 10000;
const CHANGE_TIMEOUT_MS = 70000; // a kernel may take a minute to start
const READ_TRIES = 3;
const PAUSE_MS = 150;

/** The server's refusal: `status` is the HTTP status, the message a sentence. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** GET: {body, headers}. Throws Refused for an answer that is not JSON or is an error, TypeError when there is none. */
export async function read(path, { errorsToo = false } = {}) {
  for (let left = READ_TRIES - 1; ; left -= 1) {
    try {
      const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
      return { body: await bodyOf(response, errorsToo), headers: response.headers };
    } catch (problem) {
      const passing = problem instanceof TypeError || (problem instanceof Refused && problem.status === 503);
      if (!passing || left === 0) throw problem;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

/** POST or DELETE, once; the answer's JSON or null. */
export async function change(method, path, body) {
  const headers = { "X-XSRFToken": xsrf() };
  if (body) headers["Content-Type"] = "application/json";
  const signal = AbortSignal.timeout(CHANGE_TIMEOUT_MS);
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal });
  return bodyOf(response, false);
}

function xsrf() {
  const cookie = document.cookie.split("; ").find((each) => each.startsWith("_xsrf="));
  return cookie ? cookie.slice("_xsrf=".length) : "";
}

async function bodyOf(response, errorsToo) {
  const isJson = (response.headers.get("Content-Type") || "").startsWith("application/json");
  const body = isJson ? await response.json() : null;
  if (response.ok || (errorsToo && isJson)) return body;
  const why = body && (body.reason && body.reason !== body.message ? `${body.message}: ${body.reason}` : body.message);
  throw new Refused(response.status, why || `The server answered ${response.status}.`);
}
