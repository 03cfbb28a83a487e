// The service over HTTP: requests, the token, and what went wrong in words. Knows paths; must not know what is drawn.

import { number, say, trouble } from "./words.js";

const TOKEN = "manyheads.token";
let token = null;
try { token = sessionStorage.getItem(TOKEN); } catch { /* held in memory only */ }

/** Whether the service has asked for a token. */
export let guarded = token !== null;

/** Take the token that all requests from now on carry; it stays in this tab. */
export function useToken(value) {
  token = value;
  guarded = true;
  try {
    if (value === null) sessionStorage.removeItem(TOKEN);
    else sessionStorage.setItem(TOKEN, value);
  } catch { /* held in memory only */ }
}

/** An answer that is no success; `message` is for people. */
export class Trouble extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A request; the answer if it is a success, else a Trouble. */
export async function request(path, { body, type = "application/json", signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = type;
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body,
      signal,
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble(0, say("offline"));
  }
  if (answer.ok) return answer;
  if (answer.status === 401) guarded = true;
  let detail = "";
  try { detail = trouble(await answer.json()); } catch { /* no problem document */ }
  if (answer.status === 429 || answer.status === 503) {
    const seconds = answer.headers.get("Retry-After");
    if (seconds) detail = `${say("busy", { seconds: number(Number(seconds)) })} ${detail}`.trim();
  }
  throw new Trouble(answer.status, detail || say("failed", { status: answer.status }));
}

/** What a request of JSON answers. */
export async function ask(path, value, signal) {
  const body = value === undefined ? undefined : JSON.stringify(value);
  return (await request(path, { body, signal })).json();
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const address = (path) => new URL(path, document.baseURI).href;
const authorization = () => (guarded ? ' -H "Authorization: Bearer $TOKEN"' : "");

/** The same request as a command line. */
export const curl = (path, value) =>
  `curl -H 'Content-Type: application/json'${authorization()} -d ${quoted(JSON.stringify(value))} ${quoted(address(path))}`;

/** The same for a file of csv. */
export const curlFile = (path, name) =>
  `curl -H 'Content-Type: text/csv'${authorization()} --data-binary @${quoted(name)} -o labelled.csv ${quoted(address(path))}`;
