// The view that labels a file: choose, map columns, send, follow the rows as they come, save. Knows csv and bytes.

import { announce, byId, copy, el, table, toast } from "./draw.js";
import { curlFile, request } from "./service.js";
import { bytes, duration, number, say } from "./words.js";

const PREVIEW = 65536; // bytes that are looked at
const ROWS = 5;
const NEWLINE = 10, QUOTE = 34;

let offer = null;
let file = null;
let header = [], first = [];
let running = null;
let done = null; // { url, rows, seconds, head }
let left = null; // what is said of the last work: [key, values]

/** Show the view for what is served. */
export function showFiling(served) {
  offer = served;
  const select = byId("file-task");
  const before = select.value;
  select.replaceChildren(...offer.tasks.map((task) => el("option", { value: task.name }, task.name)));
  if (offer.tasks.some((task) => task.name === before)) select.value = before;
  drawFile();
  drawColumns();
  drawDone();
  if (left) problem(say(...left));
}

function drawFile() {
  byId("file-name").textContent = file ? file.name : say("fileChoose");
  byId("file-size").textContent = file
    ? say("fileAnother", { size: bytes(file.size) })
    : say("fileHint", { most: bytes(offer.limits.file) });
  byId("drop").classList.toggle("chosen", file !== null);
  byId("file-settings").hidden = file === null || header.length === 0;
  if (header.length) table(byId("file-preview"), header, first);
}

const chosen = () => offer.tasks.find((task) => task.name === byId("file-task").value);

/** A select for each column that the task reads. */
function drawColumns() {
  const task = chosen();
  if (!task || !header.length) return;
  const kept = [...byId("file-columns").querySelectorAll("select")].map((one) => [one.dataset.column, one.value]);
  const before = new Map(kept.filter(([, value]) => header.includes(value)));
  const taken = new Set();
  byId("file-columns").replaceChildren(...task.columns.map((name) => {
    const guess = before.get(name) ?? guessed(name, taken);
    taken.add(guess);
    return el("label", { class: "field" }, el("span", {}, say("column", { name })),
      el("select", { "data-column": name }, header.map((own) =>
        el("option", { value: own, selected: own === guess }, own))));
  }));
}

/** The column of the file that likely holds what the task calls `name`: that of its name, else the longest texts. */
function guessed(name, taken) {
  const free = header.filter((one) => !taken.has(one));
  const same = free.find((one) => one.toLowerCase() === name.toLowerCase());
  if (same !== undefined) return same;
  const length = (own) => first.reduce((sum, row) => sum + (row[header.indexOf(own)] ?? "").length, 0);
  return [...free].sort((a, b) => length(b) - length(a))[0] ?? header[0];
}

/** Rows of csv, as many as are asked for; the delimiter is told by the first line, as the service tells it. */
export function rowsOf(text, most) {
  const bare = text.slice(0, Math.max(0, text.search(/\r?\n|$/))).replace(/"[^"]*"/g, "");
  const delimiter = ["\t", ",", ";"].find((mark) => bare.includes(mark)) ?? ",";
  const rows = [];
  let row = [], cell = "", quoted = false;
  const end = () => {
    row.push(cell);
    if (row.length > 1 || row[0] !== "") rows.push(row);
    row = [];
    cell = "";
  };
  for (let at = 0; at < text.length && rows.length < most; at++) {
    const letter = text[at];
    if (quoted) {
      if (letter !== '"') cell += letter;
      else if (text[at + 1] === '"') { cell += '"'; at++; }
      else quoted = false;
    } else if (letter === '"' && cell === "") quoted = true;
    else if (letter === delimiter) { row.push(cell); cell = ""; }
    else if (letter === "\n") end();
    else if (letter !== "\r") cell += letter;
  }
  if (rows.length < most && (cell !== "" || row.length)) end();
  return rows;
}

const shortened = (cell) => (cell.length > 120 ? `${cell.slice(0, 119)}…` : cell);

async function choose(one) {
  if (running || !one) return;
  forget();
  file = one;
  header = [];
  first = [];
  drawFile();
  if (!file.size) problem(say(...(left = ["fileEmpty"])));
  else if (file.size > offer.limits.file)
    problem(say(...(left = ["fileLarge", { size: bytes(file.size), most: bytes(offer.limits.file) }])));
  else {
    const readable = await isText(one);
    const text = new TextDecoder().decode(await one.slice(0, PREVIEW).arrayBuffer());
    if (file !== one) return; // another was chosen meanwhile
    if (readable) {
      [header = [], ...first] = rowsOf(text, ROWS + 1);
      first = first.map((row) => row.map(shortened));
    } else problem(say(...(left = ["fileNotText"])));
  }
  drawFile();
  drawColumns();
}

/** Whether a file is UTF-8 as a whole; sheets are often saved as something else. */
async function isText(one) {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  try {
    const reader = one.stream().getReader();
    for (;;) {
      const { done: ended, value } = await reader.read();
      if (decoder.decode(value, { stream: !ended }).includes("\0")) return false;
      if (ended) return true;
    }
  } catch (error) {
    if (error instanceof TypeError) return false;
    throw error;
  }
}

function forget() {
  if (done) URL.revokeObjectURL(done.url);
  done = left = null;
  problem("");
  drawDone();
}

function problem(text) {
  const box = byId("file-problem");
  box.textContent = text;
  box.hidden = !text;
}

function path() {
  const query = new URLSearchParams({ task: chosen().name });
  for (const one of byId("file-columns").querySelectorAll("select")) query.append("column", one.value);
  if (byId("file-probabilities").checked) query.set("probabilities", "true");
  return `v1/label?${query}`;
}

async function submit(event) {
  event.preventDefault();
  if (running || !file || !header.length) return;
  forget();
  const task = chosen();
  if (header.length < task.columns.length) {
    problem(say(...(left = ["fileNoColumns", { found: number(header.length), needed: number(task.columns.length) }])));
    return;
  }
  const own = (running = new AbortController());
  const begin = performance.now();
  let rows = 0, all = null;
  work(true);
  tell(say("fileSending"));
  byId("file-progress").removeAttribute("value");
  byId("file-cancel").focus();
  try {
    const answer = await request(path(), { body: file, type: "text/csv", signal: own.signal });
    all = Number(answer.headers.get("X-Rows"));
    const parts = [];
    const reader = answer.body.getReader();
    let quoted = false, lines = 0, said = 0;
    const started = performance.now();
    for (;;) {
      const { done: ended, value } = await reader.read();
      if (ended) break;
      parts.push(value);
      for (const byte of value) {
        if (byte === QUOTE) quoted = !quoted;
        else if (byte === NEWLINE && !quoted) lines++;
      }
      rows = Math.max(0, lines - 1); // the first is the header
      follow(rows, all, (performance.now() - started) / 1000);
      const tenth = Math.floor((rows / all) * 10);
      if (tenth > said) {
        said = tenth;
        announce(say("fileAt", { done: number(rows), all: number(all) }));
      }
    }
    if (rows !== all) throw new Error("fewer rows than were promised");
    const blob = new Blob(parts, { type: "text/csv" });
    done = { url: URL.createObjectURL(blob), rows, seconds: (performance.now() - begin) / 1000,
      head: rowsOf(await blob.slice(0, PREVIEW).text(), ROWS + 1) };
    drawDone();
    byId("file-save").focus();
  } catch (error) {
    const values = all === null ? null : { done: number(rows), all: number(all) };
    if (own.signal.aborted) problem(say(...(left = values ? ["cancelled", values] : ["cancelledEarly"])));
    else if (error.status === undefined) problem(say(...(left = values ? ["fileBroken", values] : ["offline"])));
    else problem(error.message);
    byId("file-go").focus();
  } finally {
    running = null;
    work(false);
    if (done) byId("file-save").focus();
    else byId("file-go").focus();
  }
}

function work(on) {
  byId("file-work").hidden = !on;
  for (const one of byId("file-settings").querySelectorAll("select, input, button")) one.disabled = on;
  byId("file").disabled = on;
}

function tell(text) {
  byId("file-doing").textContent = text;
  byId("file-left").textContent = "";
}

function follow(rows, all, seconds) {
  const bar = byId("file-progress");
  bar.max = Math.max(1, all);
  bar.value = rows;
  tell(say("fileAt", { done: number(rows), all: number(all) }));
  if (rows && seconds > 1) {
    const time = duration(Math.max(1, Math.round((seconds / rows) * (all - rows))));
    byId("file-left").textContent = say("fileLeft", { time });
  }
}

function drawDone() {
  byId("file-done").hidden = done === null;
  byId("file-preview").parentElement.hidden = done !== null; // the labelled rows say it better
  const save = byId("file-save");
  if (done === null) {
    save.removeAttribute("href");
    return;
  }
  save.href = done.url;
  save.download = file.name.replace(/(\.[^.]*)?$/, "-labelled.csv");
  byId("file-done-text").textContent = say("fileDone", { count: number(done.rows), time: duration(done.seconds) });
  const [names, ...rows] = done.head;
  table(byId("file-result"), names, rows.map((row) => row.map(shortened)));
}

/** What the view does when it is clicked; once. */
export function beginFiling() {
  const drop = byId("drop");
  byId("file").addEventListener("change", (event) => choose(event.target.files[0]));
  for (const name of ["dragenter", "dragover"])
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); choose(event.dataTransfer.files[0]); });
  byId("file-task").addEventListener("change", drawColumns);
  byId("label").addEventListener("submit", submit);
  byId("file-cancel").addEventListener("click", () => running?.abort());
  byId("file-curl").addEventListener("click", async () => {
    const went = await copy(curlFile(path(), file.name));
    toast(say(went ? "copied" : "notCopied"));
  });
}
