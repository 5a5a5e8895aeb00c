// The store's operations, as any client calls them.
//
// `call(name, arguments)` is one operation. Where the page carries a run with it (`agl export`), the run answers
// instead of a store.

import { signal } from "./ui.js";
import { carriedRun } from "./carried.js";

/** @typedef {Record<string, any>} Json */

// Operations that are asked for with GET, and which of their arguments stand in the path. All others are a POST.
/** @type {Record<string, string[]>} */
const GETS = {
  get_latest_resources: [],
  get_resources_by_id: ["resources_id"],
  get_rollout_by_id: ["rollout_id"],
  query_attempts: ["rollout_id"],
  query_spans: ["rollout_id"],
  statistics: [],
  summary: [],
};
const MUTATING = new Set(["enqueue_rollout", "update_rollout"]);
const TOKEN = "agl-token";

/** True while the store asks for a token that the page does not have. */
export const tokenWanted = signal(false);

/** What the store said of the last token, if it was wrong. */
export const tokenRefused = signal(false);

/** @type {Array<() => void>} */
let waitingForToken = [];

/** Something the store refused, or could not be asked. */
export class StoreError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Carry out one operation of the store.
 * @param {string} name
 * @param {Json} [given]
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function call(name, given = {}, options = {}) {
  const run = carriedRun();
  if (run) return run.answer(name, given);
  const response = await send(name in GETS ? asGet(name, given) : asPost(name, given), options.signal);
  return response.json();
}

/**
 * Fetch a path of the store with the tab's token, which is asked for when the store wants one.
 * @param {{path: string, method?: string, body?: string, headers?: Record<string, string>}} request
 * @param {AbortSignal} [abort]
 * @returns {Promise<Response>}
 */
export async function send({ path, method = "GET", body, headers = {} }, abort) {
  const token = sessionStorage.getItem(TOKEN);
  /** @type {Record<string, string>} */
  const authorization = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method,
      body,
      headers: { ...headers, ...authorization },
      signal: abort,
    });
  } catch (error) {
    if (abort?.aborted) throw error;
    throw new StoreError(0, "The store does not answer. Is `agl store` running?");
  }
  if (response.status === 401) {
    await askForToken(token !== null);
    return send({ path, method, body, headers }, abort);
  }
  if (!response.ok) throw new StoreError(response.status, await problemOf(response));
  return response;
}

/** Keep the token for this tab, and go on with what waited for it. @param {string} token */
export function giveToken(token) {
  sessionStorage.setItem(TOKEN, token.trim());
  tokenWanted.value = false;
  const waiting = waitingForToken;
  waitingForToken = [];
  for (const goOn of waiting) goOn();
}

/** @param {boolean} refused */
function askForToken(refused) {
  tokenRefused.value = refused;
  tokenWanted.value = true;
  return new Promise((resolve) => waitingForToken.push(() => resolve(undefined)));
}

/** @param {string} name @param {Json} given */
function asGet(name, given) {
  const rest = { ...given };
  const parts = GETS[name].map((/** @type {string} */ parameter) => {
    const value = rest[parameter];
    delete rest[parameter];
    return `/${encodeURIComponent(value)}`;
  });
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(rest)) {
    if (value !== undefined && value !== null) query.set(key, String(value));
  }
  return { path: `${name}${parts.join("")}${query.size ? `?${query}` : ""}` };
}

/** @param {string} name @param {Json} given */
function asPost(name, given) {
  const key = MUTATING.has(name) ? { "Idempotency-Key": randomKey() } : {};
  return {
    path: name,
    method: "POST",
    body: JSON.stringify(given),
    headers: { "Content-Type": "application/json", ...key },
  };
}

// `crypto.randomUUID` is missing where the page came over plain http from another machine.
function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Response} response */
async function problemOf(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `The store answered ${response.status}.`;
  }
}
