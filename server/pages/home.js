// The home page: asks the server every two seconds while it is looked at, and hands what it hears to the views.

import { Refused, change, read } from "./api.js";
import { Console } from "./console.js";
import { ask, byId, el, setOptions, setText } from "./dom.js";
import { KernelTable } from "./kernels.js";
import { RingView } from "./ring.js";

const REFRESH_MS = 2000;
const SOON_MS = 300;
const UNSETTLED_MAX = 5;

const ring = new RingView();
const table = new KernelTable(act);
const cells = new Console(startKernel);
let specs = null;
let unsettled = 0;
let failures = 0;
let answeredAt = new Date();
let timer = 0;
let looking = false;
let again = false;
let asked = 0;
let shown = 0;
let names = new Map();

/** Ask for everything and show it. False: look again soon. */
async function refresh() {
  const turn = (asked += 1);
  const [me, kernels, status, ready] = await Promise.all([
    read("/api/me"), read("/api/kernels"), read("/api/status"), read("/readyz", { errorsToo: true }), needSpecs(),
  ]);
  if (turn < shown) return true; // what was asked later has been shown: this may not know of a kernel that was just started
  shown = turn;
  // Somebody else has logged in, in another tab: nothing of the one before may stay here.
  if (me.body.identity.username !== byId("user").textContent) location.reload();
  showKernels(kernels.body);
  return showRing(kernels, status.body, ready.body);
}

async function needSpecs() {
  if (specs) return;
  const { body } = await read("/api/kernelspecs");
  specs = body.kernelspecs;
  const options = Object.entries(specs).map(([name, { spec }]) => [name, spec.display_name]);
  setOptions(byId("spec"), options, body.default);
}

function showKernels(kernels) {
  names = new Map(kernels.map(({ id, name }) => [id, titleOf(id, name)]));
  table.show(kernels, names);
  cells.follow(kernels, names);
}

function titleOf(id, name) {
  const kind = specs[name]?.spec.display_name || name;
  const short = id.slice(0, 8);
  return { kind, short, full: `${kind} · ${short}` };
}

/** False when the answers are of two different rings, as while a worker dies: the next look will tell. */
function showRing({ body, headers }, status, ready) {
  const owner = headers.get("X-Kernelring-Owner");
  const settled = owner && ready.members.includes(owner);
  unsettled = settled ? 0 : unsettled + 1;
  if (!owner || (!settled && unsettled < UNSETTLED_MAX)) return false;
  ring.show({
    epoch: ready.epoch,
    members: ready.members,
    owner,
    entry: headers.get("X-Kernelring-Entry"),
    status: ready.status,
    hasKernels: body.length > 0,
    since: new Date(status.started),
  });
  return true;
}

/** Look again, after a pause. */
function soon(pause = 0) {
  clearTimeout(timer);
  timer = setTimeout(look, pause);
}

async function look() {
  if (document.visibilityState !== "visible") return;
  if (looking) {
    again = true;
    return;
  }
  looking = true;
  const pause = await tryToLook();
  looking = false;
  if (pause !== null) soon(again ? 0 : pause);
  again = false;
}

/** How long to wait until the next look; null for ever. */
async function tryToLook() {
  try {
    const settled = await refresh();
    failures = 0;
    answeredAt = new Date();
    tell("", "away");
    return settled ? REFRESH_MS : SOON_MS;
  } catch (problem) {
    if (problem instanceof Refused && problem.status === 403) {
      leave();
      return null;
    }
    failures += 1;
    if (failures === 1) return SOON_MS; // a worker that ends takes some requests along: nothing to speak of
    tell(`The server does not answer just now; asking again. What you see is of ${answeredAt.toLocaleTimeString()}.`, "away");
    return REFRESH_MS;
  }
}

function leave() {
  tell("You are logged out.", "away");
  byId("notice").append(" ", el("a", { href: "/login" }, "Log in"));
}

/** One sentence above everything. A sentence of the kind "away" goes when the server answers, an error when the next thing is done. */
function tell(sentence, kind) {
  const notice = byId("notice");
  if (!sentence && notice.dataset.kind !== kind) return;
  notice.dataset.kind = kind;
  notice.hidden = !sentence;
  setText(notice, sentence);
}

/** Do something that changes something; say what went wrong; look again. Resolves to the answer or undefined. */
async function attempt(what, job) {
  tell("", "error");
  try {
    return await job();
  } catch (problem) {
    const why = problem instanceof Refused ? problem.message : "the server did not answer.";
    tell(`${what} failed: ${why}`, "error");
    return undefined;
  } finally {
    soon();
  }
}

async function act(verb, id) {
  const name = names.get(id)?.full || id;
  const path = `/api/kernels/${id}`;
  if (verb === "interrupt") {
    await attempt("Interrupt", () => change("POST", `${path}/interrupt`));
  } else if (verb === "restart" && (await ask(`Restart ${name}? Its variables are lost.`, "Restart"))) {
    await attempt("Restart", () => change("POST", `${path}/restart`));
  } else if (verb === "shutdown" && (await ask(`Shut down ${name}? Its variables are lost.`, "Shut down"))) {
    await attempt("Shut down", () => change("DELETE", path));
  }
}

async function startKernel() {
  const model = await attempt("New kernel", () => change("POST", "/api/kernels", { name: byId("spec").value }));
  if (!model) return null;
  await refresh().catch(() => undefined);
  cells.choose(model.id);
  return model.id;
}

byId("new-kernel").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.target.querySelector("button");
  if (button.getAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true");
  setText(button, "Starting …");
  await startKernel();
  setText(button, "New kernel");
  button.removeAttribute("aria-disabled");
});
document.addEventListener("visibilitychange", () => soon());
soon();
