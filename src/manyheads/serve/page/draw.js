// Small pieces of the page: elements, bars, marked texts, tables. Knows the DOM; must not know tasks or the service.

import { number, percent, say } from "./words.js";

/** An element with attributes (`on…` are listeners) and children; texts are put in as texts. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Say something to those who do not see the page. */
export function announce(text) {
  byId("status").textContent = text;
}

let fading = null;
/** Say something briefly to everybody. */
export function toast(text) {
  announce(text);
  const box = byId("toast");
  box.textContent = text;
  box.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => box.classList.remove("shown"), 2200);
}

/** Copy a text; whether it went. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { /* without TLS there is no clipboard but the old way */ }
  const area = el("textarea", { class: "hidden", "aria-hidden": "true", tabindex: "-1" });
  area.value = text;
  document.body.append(area);
  const before = document.activeElement;
  area.select();
  let went = false;
  try { went = document.execCommand("copy"); } catch { /* not either */ }
  area.remove();
  before?.focus();
  return went;
}

/** Rows of a name, a share 0 to 1 and a bar; beyond `most` they are hidden behind a button. */
export function bars(rows, { most = 5, ordered = false } = {}) {
  const list = el(ordered ? "ol" : "ul", { class: "bars" });
  rows.forEach(({ name, share, best }, at) => {
    const fill = el("span", { class: "fill" });
    fill.style.inlineSize = `${Math.max(0, Math.min(1, share)) * 100}%`;
    list.append(el("li", { class: best ? "best" : undefined, hidden: at >= most },
      el("span", { class: "name", dir: "auto" },
        ordered ? el("span", { class: "rank", "aria-hidden": "true" }, String(at + 1)) : null,
        el("span", {}, name)),
      el("span", { class: "share" }, percent(share)),
      el("span", { class: "track", "aria-hidden": "true" }, fill)));
  });
  if (rows.length <= most) return list;
  const all = () => say("showAll", { count: number(rows.length) });
  const button = el("button", { type: "button", class: "quiet", "aria-expanded": "false" }, all());
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? say("showLess") : all();
    [...list.children].forEach((row, at) => { row.hidden = !open && at >= most; });
  });
  return el("div", {}, list, button);
}

/** A text with pieces of it marked; places count code points, and of overlapping pieces the first is marked. */
export function marked(text, pieces, mark) {
  const letters = Array.from(text);
  const parts = [];
  let place = 0;
  for (const piece of [...pieces].sort((a, b) => a.start - b.start || b.end - a.end)) {
    if (piece.start < place || piece.end <= piece.start) continue;
    if (piece.start > place) parts.push(letters.slice(place, piece.start).join(""));
    parts.push(mark(piece, letters.slice(piece.start, piece.end).join("")));
    place = piece.end;
  }
  parts.push(letters.slice(place).join(""));
  return el("p", { class: "marked", dir: "auto" }, parts.filter((part) => part !== ""));
}

/** A table into an element: the names of its columns, and rows of cells. */
export function table(into, header, rows, numeric = new Set()) {
  into.replaceChildren(
    el("thead", {}, el("tr", {}, header.map((name, at) =>
      el("th", { scope: "col", class: numeric.has(at) ? "number" : undefined }, name)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, at) =>
      el("td", { class: numeric.has(at) ? "number" : cell.length > 28 ? "long" : undefined, dir: "auto" }, cell))))));
  return into;
}

const hues = new Map();
/** A colour of its own, by number, for each label. */
export function hue(label) {
  if (!hues.has(label)) hues.set(label, hues.size % 8);
  return hues.get(label);
}
