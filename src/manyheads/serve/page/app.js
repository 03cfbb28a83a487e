// The page from its loading on: what is served, the views, the language, the colours and the token.

import { byId, el, table } from "./draw.js";
import { kindName } from "./answers.js";
import { beginAsking, readsName, showAsking } from "./asking.js";
import { beginFiling, showFiling } from "./filing.js";
import { ask, guarded, useToken } from "./service.js";
import { bytes, duration, language, number, say, speak, translate } from "./words.js";

let offer = null;

async function load() {
  trouble(null);
  try {
    offer = await ask("v1/tasks");
  } catch (error) {
    if (error.status === 401) askForToken();
    else trouble(error.message);
    return;
  }
  show();
}

function trouble(message) {
  const box = byId("trouble");
  box.hidden = message === null;
  box.replaceChildren();
  if (message !== null) box.append(message, " ", el("button", { type: "button", onclick: load }, say("retry")));
}

/** All that depends on language or offer, once more. */
function show() {
  translate();
  for (const one of ["en", "zh"]) byId(`language-${one}`).setAttribute("aria-pressed", String(language() === one));
  if (offer === null) return;
  showAsking(offer);
  showFiling(offer);
  showTasks();
}

function showTasks() {
  const few = (labels) => labels.length > 6
    ? `${labels.slice(0, 5).join(", ")}, ${say("andMore", { count: number(labels.length - 5) })}` : labels.join(", ");
  const said = ({ labels, range }) =>
    labels ? few(labels) : range ? range.map((end) => number(end, 3)).join(" – ") : "";
  table(byId("tasks"), ["name", "kind", "reads", "labels", "maxLength", "model"].map((key) => say(key)),
    offer.tasks.map((task) =>
      [task.name, kindName(task.kind), readsName(task), said(task), number(task.max_length), task.model]),
    new Set([4]));
  const shown = { inputs: number, texts: number, characters: number, body: bytes, file: bytes, timeout: duration };
  byId("limits").replaceChildren(...Object.entries(shown).map(([name, written]) =>
    el("div", {}, el("dt", {}, say(`limit_${name}`)), el("dd", {}, written(offer.limits[name])))));
  byId("docs").parentElement.hidden = guarded; // a browser sends no token when it follows a link
}

// ---- token ----

function askForToken(wrong = false) {
  byId("token-problem").hidden = !wrong;
  byId("token-problem").textContent = wrong ? say("tokenWrong") : "";
  if (!byId("token").open) byId("token").showModal();
  byId("token-value").select();
}

async function tryToken(event) {
  event.preventDefault();
  useToken(byId("token-value").value.trim());
  try {
    offer = await ask("v1/tasks");
  } catch (error) {
    if (error.status === 401) {
      useToken(null);
      askForToken(true);
    } else {
      byId("token-problem").hidden = false;
      byId("token-problem").textContent = error.message;
    }
    return;
  }
  byId("token-value").value = "";
  byId("token").close();
  show();
}

// ---- views, language, colours ----

const VIEWS = ["ask", "file", "tasks"];

function view(name, focus = false) {
  for (const one of VIEWS) {
    const tab = byId(`tab-${one}`);
    tab.setAttribute("aria-selected", String(one === name));
    tab.tabIndex = one === name ? 0 : -1;
    byId(`view-${one}`).hidden = one !== name;
    if (focus && one === name) tab.focus();
  }
  history.replaceState(null, "", name === "ask" ? location.pathname : `#${name}`);
}

function beginViews() {
  for (const one of VIEWS) byId(`tab-${one}`).addEventListener("click", () => view(one));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const at = VIEWS.findIndex((one) => byId(`tab-${one}`) === document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1 + VIEWS.length, Home: 0, End: VIEWS.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    view(VIEWS[to % VIEWS.length], true);
  });
  const named = location.hash.slice(1);
  if (VIEWS.includes(named)) view(named);
}

const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
const showTheme = () => byId("theme").setAttribute("aria-pressed", String(isDark()));

function beginColours() {
  byId("theme").addEventListener("click", () => {
    const chosen = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    try { localStorage.setItem("manyheads.theme", chosen); } catch { /* not kept then */ }
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();
}

for (const one of ["en", "zh"]) byId(`language-${one}`).addEventListener("click", () => { speak(one); show(); });
byId("token-form").addEventListener("submit", tryToken);
byId("token").addEventListener("cancel", (event) => event.preventDefault());
beginViews();
beginColours();
beginAsking();
beginFiling();
show();
load();
