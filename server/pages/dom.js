// Building the page. Data enters the document only here, as text or as an attribute's value, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id, which home.html has. */
export const byId = (id) => document.getElementById(id);

/** A new element. `attributes`: `onclick` and its like are listeners; null and false are left out. Strings become text. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** As `el`, for drawings. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Set a text, and leave the node alone when it has it already: focus, selection and screen readers stay undisturbed. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Give a `<select>` these [value, text] options; keep what was chosen if it is still there. */
export function setOptions(select, options, preferred) {
  const same = options.length === select.options.length &&
    options.every(([value, text], at) => select.options[at].value === value && select.options[at].text === text);
  if (same) return;
  const chosen = select.value || preferred;
  select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

/** A worker's name in a sentence: the host is the same for all of them. */
export const shortName = (worker) => `…/${worker.slice(worker.lastIndexOf("/") + 1)}`;

/** Ask before something that cannot be taken back; true for yes. */
export function ask(question, yes) {
  const dialog = byId("ask");
  byId("ask-question").textContent = question;
  byId("ask-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
