// What a head says of an input, drawn as a card by the shape of its answer. Knows predictions as the API tells them.

import { bars, el, hue, marked, table } from "./draw.js";
import { effect, known, number, percent, say } from "./words.js";
import { ask } from "./service.js";

const KINDS = {
  classification: "kindClassification", regression: "kindRegression", tagging: "kindTagging", span: "kindSpan",
  choice: "kindChoice", ranking: "kindRanking", mlm: "kindMlm", next_sentence: "kindNextSentence",
};

/** What a kind of task is called. */
export const kindName = (kind) => (KINDS[kind] && known(KINDS[kind]) ? say(KINDS[kind]) : kind);

/** Whether the service can say which words moved this answer: it is one label of a fixed set, or one number. */
const explainable = (told) =>
  (told.probabilities && !told.shares) || (told.value !== undefined && told.label === undefined);

/** The card of a task's answer to `input`, as the API takes it. */
export function card(task, input, told, explains) {
  const body = answer(task, input, told);
  const notes = [cut(task, told), cleaned(input, told)];
  return el("article", { class: `card ${body.wide || told.cleaned ? "wide" : ""}`, "aria-label": task.name },
    el("header", {},
      el("h3", {}, task.name),
      el("span", { class: "chip" }, kindName(task.kind)),
      task.calibrated && (told.probabilities || told.shares)
        ? el("span", { class: "chip soft", title: say("calibratedAbout") }, say("calibrated")) : null),
    body.parts,
    notes,
    explains && explainable(told) ? why(task, input, told) : null);
}

function answer(task, input, told) {
  if (told.ranking || told.shares) return { parts: candidates(input, told), wide: true };
  if (told.probabilities) return { parts: label(told) };
  if (task.inputs === "pair" && told.label !== undefined) return { parts: passage(input, told), wide: true };
  if (told.value !== undefined && told.label === undefined) return { parts: value(task, told) };
  if (told.spans) return { parts: entities(input, told), wide: true };
  return { parts: [el("p", { class: "headline", dir: "auto" }, told.label || say("nothingFound"))] };
}

const headline = (text, share) => el("p", { class: "headline", dir: "auto" },
  el("strong", {}, text), share === undefined ? null : el("span", { class: "score" }, percent(share)));

function label(told) {
  const rows = Object.entries(told.probabilities)
    .map(([name, share]) => ({ name, share, best: name === told.label }))
    .sort((a, b) => b.share - a.share);
  return [headline(told.label, told.score), bars(rows)];
}

function value(task, told) {
  const parts = [headline(number(told.value, 3))];
  if (task.range) {
    const [least, greatest] = task.range;
    const dot = el("span", { class: "dot" });
    dot.style.insetInlineStart = `${Math.max(0, Math.min(1, (told.value - least) / (greatest - least))) * 100}%`;
    parts.push(el("div", { class: "scale", "aria-hidden": "true" },
      el("span", { class: "track" }, dot),
      el("span", {}, number(least, 3)), el("span", {}, number(greatest, 3))));
  }
  return parts;
}

function entities(input, told) {
  const text = typeof input === "string" ? input : input.join(" ");
  if (!told.spans.length) return [marked(text, [], null), el("p", { class: "faint" }, say("nothingFound"))];
  // A word joiner keeps the label on the line of the last sign.
  const mark = (piece, inside) =>
    el("mark", { "data-hue": hue(piece.label) }, inside, "\u2060", el("span", { class: "tag" }, piece.label));
  const list = table(el("table", { class: "slim" }), [say("entity"), say("label"), say("probability")],
    told.spans.map((one) => [one.text, one.label, percent(one.score)]), new Set([2]));
  return [marked(text, told.spans, mark), list];
}

function passage([, context], told) {
  const silent = told.label === "";
  const best = silent ? [] : told.spans.slice(0, 1);
  const others = told.spans.map((one, at) => ({ name: one.text, share: one.score, best: at === 0 && !silent }));
  if (silent) others.unshift({ name: say("noAnswerShort"), share: told.score, best: true });
  return [
    headline(silent ? say("noAnswer") : told.label, told.score),
    marked(context, best, (piece, inside) => el("mark", { class: "found" }, inside)),
    el("h4", {}, say("otherAnswers")),
    bars(others, { most: 3 }),
  ];
}

function candidates([, texts], told) {
  const order = told.ranking ?? texts.map((_, at) => at).sort((a, b) => told.shares[b] - told.shares[a]);
  const rows = order.map((at, place) => ({ name: texts[at], share: told.shares[at], best: place === 0 }));
  return [bars(rows, { most: 8, ordered: true })];
}

function cut(task, told) {
  if (!told.truncated) return null;
  const count = told.tokens_dropped;
  const text = say(count === 1 ? "truncatedOne" : "truncated", { count: number(count), most: number(task.max_length) });
  return el("p", { class: "note warn" }, text);
}

function cleaned(input, told) {
  if (!told.cleaned) return null;
  const typed = typeof input === "string" ? [input] : input;
  return el("div", { class: "cleaned" }, told.cleaned.map((read, at) => [
    el("div", {}, el("h4", {}, say("asTyped")), el("p", { dir: "auto" }, typed[at])),
    el("div", {}, el("h4", {}, say("asRead")), el("p", { dir: "auto" }, read)),
  ]));
}

// ---- why ----

function why(task, input, told) {
  const shown = el("div", { class: "why-shown", "aria-live": "polite" });
  const labels = told.probabilities ? Object.keys(told.probabilities) : [];
  let target = told.label;
  let open = false;
  let running = null;
  const button = el("button", { type: "button", class: "quiet", "aria-expanded": "false" }, say("why"));

  async function look() {
    running?.abort();
    running = new AbortController();
    const own = running;
    shown.replaceChildren(el("p", { class: "faint busy" }, say("whyWorking")));
    try {
      const body = { task: task.name, input, ...(target === undefined ? {} : { target }) };
      const found = await ask("v1/explain", body, own.signal);
      if (own === running) shown.replaceChildren(...moved(input, found, labels, choose));
    } catch (error) {
      if (own === running && error.name !== "AbortError")
        shown.replaceChildren(el("p", { class: "note bad", role: "alert" }, error.message));
    }
  }

  function choose(label) {
    target = label;
    look().then(() => shown.querySelector("select")?.focus());
  }

  button.addEventListener("click", () => {
    open = !open;
    button.setAttribute("aria-expanded", String(open));
    button.textContent = say(open ? "whyHide" : "why");
    if (open) look();
    else {
      running?.abort();
      running = null;
      shown.replaceChildren();
    }
  });
  return el("div", { class: "why" }, button, shown);
}

/** The texts with their words shaded, and the strongest as a table. */
function moved(input, found, labels, choose) {
  const texts = typeof input === "string" ? [input] : input;
  const words = found.tokens.filter((token) => token.end > token.start);
  const most = Math.max(0, ...words.map((token) => Math.abs(token.value)));
  const parts = [];
  if (labels.length > 1) {
    const select = el("select", { onchange: (event) => choose(event.target.value) },
      labels.map((name) => el("option", { value: name, selected: name === found.target }, name)));
    parts.push(el("label", { class: "inline" }, say("whyFor"), select));
  }
  if (!most) return [...parts, el("p", { class: "faint" }, say("whyNothing"))];
  parts.push(...texts.map((text, which) => {
    const shaded = marked(text, words.filter((token) => token.which === which), (token, inside) => {
      const strength = Math.round((Math.abs(token.value) / most) * 4);
      return strength
        ? el("span", { class: `moved ${token.value > 0 ? "up" : "down"}`, "data-strength": strength }, inside)
        : inside;
    });
    shaded.classList.add("shaded");
    return shaded;
  }));
  parts.push(el("p", { class: "legend faint" },
    el("span", { class: "moved up", "data-strength": 3 }, say("whyRaised")), " ",
    el("span", { class: "moved down", "data-strength": 3 }, say("whyLowered"))));
  const strongest = [...words].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 5);
  parts.push(el("details", {}, el("summary", {}, say("whyMost")),
    table(el("table", { class: "slim" }), [say("whyWord"), say("whyEffect")],
      strongest.map((token) => [token.text, effect(token.value)]), new Set([1]))));
  if (!found.complete) parts.push(el("p", { class: "faint" }, say("whyRough")));
  return parts;
}
