// The workers and the ring: a table, a drawing, and a calm sentence for each change.

import { byId, el, setText, shortName, svg } from "./dom.js";

const KEPT_SENTENCES = 6;
const CENTRE = 110;
const RADIUS = 76;
const slotOf = (worker) => Number(worker.slice(worker.lastIndexOf("/") + 1));
const listed = (workers) => workers.map(shortName).join(", ");

/** What to say when the ring `before` became `now` ({epoch, members, owner, hasKernels}); "" for nothing. */
export function changeSentence(before, now) {
  if (!before || now.epoch === before.epoch) return "";
  const left = before.members.filter((each) => !now.members.includes(each));
  const joined = now.members.filter((each) => !before.members.includes(each));
  const parts = [];
  if (left.length) parts.push(`${left.length > 1 ? "Workers" : "Worker"} ${listed(left)} ${left.length > 1 ? "have" : "has"} left`);
  if (joined.length) parts.push(`${joined.length > 1 ? "workers" : "worker"} ${listed(joined)} ${joined.length > 1 ? "have" : "has"} joined`);
  if (!parts.length) parts.push("A worker has been replaced in its place");
  const happened = parts.join(", ");
  return `${happened[0].toUpperCase()}${happened.slice(1)}; ${whoseKernels(before, now)}.`;
}

function whoseKernels(before, now) {
  const owner = shortName(now.owner);
  if (!now.hasKernels) return `kernels that you start are on ${owner}`;
  return now.owner === before.owner ? `your kernels stay on ${owner}` : `your kernels are now on ${owner}`;
}

export class RingView {
  constructor() {
    this._shown = null;
    this._drawn = "";
  }

  /** `now`: {epoch, members, owner, entry, status, hasKernels, since}. An older epoch than the one shown is passed over. */
  show(now) {
    if (this._shown && now.epoch < this._shown.epoch) return;
    const sentence = changeSentence(this._shown, now);
    this._shown = now;
    if (sentence) this._say(sentence);
    const picture = JSON.stringify([now.members, now.owner, now.entry]);
    if (picture !== this._drawn) {
      this._drawn = picture;
      const members = [...now.members].sort((a, b) => slotOf(a) - slotOf(b));
      byId("workers").tBodies[0].replaceChildren(...members.map((each) => workerRow(each, now)));
      byId("drawing").replaceChildren(drawing(members, now));
    }
    setText(byId("facts"), facts(now));
  }

  _say(sentence) {
    const changes = byId("changes");
    const time = new Date().toLocaleTimeString();
    changes.append(el("p", {}, el("time", { class: "quiet" }, time), ` ${sentence}`));
    while (changes.children.length > KEPT_SENTENCES) changes.firstElementChild.remove();
  }
}

function facts({ epoch, members, owner, since, status }) {
  const count = members.length === 1 ? "1 worker" : `${members.length} workers`;
  const own = since ? `, ${shortName(owner)} has run since ${since.toLocaleTimeString()}` : "";
  const health = {
    degraded: " Redis cannot be reached: what runs goes on, new logins wait.",
    starting: " The worker that answered is still starting.",
    draining: " The worker that answered is about to be replaced.",
  };
  return `${count}, epoch ${epoch}${own}.${health[status] || ""}`;
}

function workerRow(worker, { owner, entry }) {
  const marks = [];
  if (worker === owner) marks.push(el("span", { class: "mark own" }, "owns your kernels"));
  if (worker === entry) marks.push(el("span", { class: "mark" }, "answered this page"));
  return el("tr", {}, el("th", { scope: "row" }, el("code", {}, worker)), el("td", {}, ...marks));
}

function drawing(members, { owner, entry }) {
  const label = `Ring of ${members.length}; ${shortName(owner)} owns your kernels`;
  const picture = svg("svg", { viewBox: "0 0 220 220", role: "img", "aria-label": label });
  picture.append(svg("circle", { class: "orbit", cx: CENTRE, cy: CENTRE, r: RADIUS }));
  members.forEach((worker, at) => {
    const angle = (2 * Math.PI * at) / members.length - Math.PI / 2;
    const cx = CENTRE + RADIUS * Math.cos(angle);
    const cy = CENTRE + RADIUS * Math.sin(angle);
    const size = members.length > 10 ? 12 : 17;
    const kind = worker === owner ? "dot own" : "dot";
    if (worker === entry) picture.append(svg("circle", { class: "entry", cx, cy, r: size + 6 }));
    picture.append(svg("circle", { class: kind, cx, cy, r: size }));
    picture.append(svg("text", { class: kind, x: cx, y: cy }, String(slotOf(worker))));
  });
  picture.append(svg("text", { class: "middle", x: CENTRE, y: CENTRE - 8 }, "your kernels"));
  picture.append(svg("text", { class: "middle", x: CENTRE, y: CENTRE + 8 }, `are on ${shortName(owner)}`));
  return picture;
}
