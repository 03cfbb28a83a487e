// The view that asks: fields for what the served tasks read, examples, the request, and a card for every answer.

import { announce, byId, copy, el, toast } from "./draw.js";
import { card, kindName } from "./answers.js";
import { ask, curl, guarded } from "./service.js";
import { examples, number, say } from "./words.js";

// Ways to ask. A question with its passage is a pair too, but nobody would type the one into the other's field.
const MODES = {
  text: { fits: (task) => task.inputs === "text", title: "modeText", reads: "readsText", fields: ["text"] },
  pair: { fits: (task) => task.inputs === "pair" && task.kind !== "span", title: "modePair", reads: "readsPair",
    fields: ["first", "second"] },
  question: { fits: (task) => task.kind === "span", title: "modeQuestion", reads: "readsQuestion",
    fields: ["question", "passage"] },
  candidates: { fits: (task) => task.inputs === "text and candidates", title: "modeCandidates", reads: "readsCandidates",
    fields: ["query", "candidates"] },
};

/** What one input of a task is, in words. */
export const readsName = (task) => say(Object.values(MODES).find((one) => one.fits(task)).reads);

const LARGE = new Set(["text", "passage", "candidates"]);

let offer = null;
let mode = null;
let last = null; // what was asked and answered, to be drawn again in another language
let running = null;
const typed = {};

/** Show the view for what is served. */
export function showAsking(served) {
  offer = served;
  const there = Object.keys(MODES).filter((name) => offer.tasks.some(MODES[name].fits));
  mode = there.includes(mode) ? mode : there[0] ?? null;
  const group = byId("modes");
  group.querySelectorAll("label").forEach((one) => one.remove());
  group.hidden = there.length < 2;
  for (const name of there) {
    const input = el("input", { type: "radio", name: "mode", value: name, checked: name === mode });
    input.addEventListener("change", () => { mode = name; last = null; drawForm(); drawAnswers(); });
    group.append(el("label", {}, input, el("span", {}, say(MODES[name].title))));
  }
  drawForm();
  drawAnswers();
}

const tasks = () => (mode === null ? [] : offer.tasks.filter(MODES[mode].fits));

function drawForm() {
  byId("form-problem").hidden = true;
  byId("curl-text").hidden = true;
  byId("fields").replaceChildren(...(MODES[mode]?.fields ?? []).map(field));
  byId("examples").replaceChildren(...(mode === null ? [] : examples(mode)).map(([title, ...texts]) =>
    el("button", { type: "button", class: "chip", onclick: () => take(texts) }, title)));
}

function field(name) {
  const most = offer.limits.characters;
  const count = el("span", { class: "faint count", id: `count-${name}` });
  const tell = () => {
    const length = Array.from(area.value).length;
    count.textContent = length > most / 2 ? say("characters", { count: number(length), most: number(most) }) : "";
    area.setAttribute("aria-invalid", String(length > most));
  };
  const area = el("textarea", {
    id: `field-${name}`, name, rows: LARGE.has(name) ? 5 : 2, dir: "auto", "aria-describedby": count.id,
    placeholder: name === "text" ? say("textHint") : undefined,
  });
  area.value = typed[name] ?? "";
  area.addEventListener("input", () => { typed[name] = area.value; tell(); });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      byId("ask").requestSubmit();
    }
  });
  tell();
  return el("div", { class: "field" }, el("label", { for: area.id }, say(name)), area, count);
}

function take(texts) {
  MODES[mode].fields.forEach((name, at) => {
    typed[name] = Array.isArray(texts[at]) ? texts[at].join("\n") : texts[at];
  });
  drawForm();
  byId("ask").requestSubmit();
}

/** The input as the API takes it; null, with a word why, where something is missing. */
function given() {
  const [a = "", b = ""] = MODES[mode].fields.map((name) => typed[name] ?? "");
  if (mode === "text") return a.trim() ? a : refuse("needText");
  if (mode === "pair") return a.trim() && b.trim() ? [a, b] : refuse("needBoth");
  if (mode === "question") return a.trim() && b.trim() ? [a, b] : refuse("needQuestion");
  const lines = b.split("\n").map((line) => line.trim()).filter(Boolean);
  return a.trim() && lines.length > 1 ? [a, lines] : refuse("needCandidates");
}

function refuse(key) {
  problem(say(key));
  const empty = MODES[mode].fields.find((name) => !(typed[name] ?? "").trim()) ?? MODES[mode].fields[0];
  byId(`field-${empty}`).focus();
  return null;
}

function problem(text) {
  const box = byId("form-problem");
  box.textContent = text;
  box.hidden = !text;
}

/** The requests that answer an input: [path, body]. */
function requests(input) {
  const names = tasks().map((task) => task.name);
  if (mode === "candidates") return names.map((task) => ["v1/predict", { task, inputs: [input] }]);
  return [["v1/analyze", { texts: [input], tasks: names }]];
}

async function submit(event) {
  event.preventDefault();
  problem("");
  const input = given();
  if (input === null) return;
  running?.abort();
  const own = (running = new AbortController());
  const button = byId("go").firstElementChild;
  byId("answers").setAttribute("aria-busy", "true");
  button.textContent = say("working");
  const begin = performance.now();
  try {
    const found = await Promise.all(requests(input).map(([path, body]) => ask(path, body, own.signal)));
    if (own !== running) return;
    const told = mode === "candidates"
      ? Object.fromEntries(found.map((one) => [one.task, one.predictions[0]]))
      : found[0].results[0];
    last = { mode, input, told, ms: Math.round(performance.now() - begin) };
    drawAnswers();
    announce(say("arrived", { count: number(Object.keys(told).length) }));
  } catch (error) {
    if (own !== running || error.name === "AbortError") return;
    problem(error.message);
  } finally {
    if (own === running) {
      running = null;
      byId("answers").setAttribute("aria-busy", "false");
      button.textContent = say("go");
    }
  }
}

function drawAnswers() {
  const cards = byId("answers"), empty = byId("empty");
  const told = last?.mode === mode ? last.told : null;
  empty.hidden = told !== null;
  if (told === null) {
    byId("took").textContent = "";
    cards.replaceChildren();
    empty.replaceChildren(el("p", {}, el("strong", {}, say("emptyTitle"))), el("p", { class: "faint" }, say("emptyText")),
      el("ul", { class: "chips" }, tasks().map((task) =>
        el("li", { class: "chip soft" }, `${task.name} · ${kindName(task.kind)}`))));
    return;
  }
  const count = Object.keys(told).length;
  byId("took").textContent = say(count === 1 ? "tookOne" : "took", { count: number(count), ms: number(last.ms) });
  cards.replaceChildren(...tasks().filter((task) => told[task.name]).map((task) =>
    card(task, last.input, told[task.name], offer.explains)));
}

/** What the view does when it is clicked; once. */
export function beginAsking() {
  byId("ask").addEventListener("submit", submit);
  byId("curl").addEventListener("click", async () => {
    problem("");
    const input = given();
    if (input === null) return;
    const command = requests(input).map(([path, body]) => curl(path, body)).join("\n");
    const shown = byId("curl-text");
    shown.hidden = false;
    shown.querySelector("pre").textContent = guarded ? `${command}\n# ${say("curlToken")}` : command;
    const went = await copy(command);
    shown.open = shown.open || !went;
    toast(say(went ? "copied" : "notCopied"));
  });
}
