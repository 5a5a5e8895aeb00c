// The store's operations, called through the same HTTP API that any other client uses.
//
// `call(name, args)` executes one operation. In a page written by `agl export`, the embedded run replaces the store.

import { embeddedRun } from "./embedded.js";
import { signal } from "./ui.js";

/** @typedef {Record<string, any>} Json */

// Operations that are sent as GET requests, with their path parameters. All others are sent as POST requests.
/** @type {Record<string, string[]>} */
const GET_OPERATIONS = {
  get_latest_resources: [],
  get_resources_by_id: ["resources_id"],
  get_rollout_by_id: ["rollout_id"],
  query_attempts: ["rollout_id"],
  query_spans: ["rollout_id"],
  statistics: [],
  summary: [],
};
const MUTATIONS = new Set(["enqueue_rollout", "update_rollout"]);
const TOKEN_KEY = "agl-token";

/** True while the store requires a token and the page does not have a valid one. */
export const tokenRequired = signal(false);

/** True if the store rejected the token that the user last entered. */
export const tokenRejected = signal(false);

/** @type {Array<() => void>} */
let requestsAwaitingToken = [];

/** An error response from the store. Status 0 means that the store is unreachable. */
export class StoreError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Maximum number of spans to load for one view, so that a rollout with very many spans does not block the page. */
export const MAX_SPANS = 1_000;

/**
 * Execute one operation of the store. A list is complete up to `limit`, or to its end if `limit` is not given.
 * @param {string} name
 * @param {Json} [args]
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function call(name, args = {}, options = {}) {
  const run = embeddedRun();
  if (run) return run.execute(name, args);
  return name.startsWith("query_") ? queryPages(name, args, options) : execute(name, args, options);
}

/** @param {string} name @param {Json} args @param {{signal?: AbortSignal}} options */
async function execute(name, args, options) {
  const request = name in GET_OPERATIONS ? getRequest(name, args) : postRequest(name, args);
  return (await sendRequest(request, options.signal)).json();
}

// A response also ends when it exceeds a number of bytes, so a page with fewer items than `limit` may not be the last.
/** @param {string} name @param {Json} args @param {{signal?: AbortSignal}} options */
async function queryPages(name, args, options) {
  const { offset, limit = -1, ...query } = args;
  const first = await execute(name, args, options);
  let items = first.items;
  for (let cursor = first.cursor; cursor !== null && items.length !== limit;) {
    const rest = limit < 0 ? limit : limit - items.length;
    const next = await execute(name, { ...query, limit: rest, cursor }, options);
    items = items.concat(next.items);
    cursor = next.cursor;
  }
  return { ...first, items };
}

/**
 * Send a request to the store with the token saved for this tab. After status 401, ask for a token and try again.
 * @param {{path: string, method?: string, body?: string, headers?: Record<string, string>}} request
 * @param {AbortSignal} [abort]
 * @returns {Promise<Response>}
 */
export async function sendRequest(request, abort) {
  const { path, ...init } = request;
  const token = sessionStorage.getItem(TOKEN_KEY);
  /** @type {Record<string, string>} */
  const authorization = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      ...init,
      headers: { ...init.headers, ...authorization },
      signal: abort,
    });
  } catch (error) {
    if (abort?.aborted) throw error;
    throw new StoreError(0, "The store is unreachable. Is `agl store` running?");
  }
  if (response.status === 401) {
    await requestToken(token !== null);
    return sendRequest(request, abort);
  }
  if (!response.ok) throw new StoreError(response.status, await errorDetail(response));
  return response;
}

/** Save the token for this tab, and resend the requests that are waiting for it. @param {string} token */
export function saveToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token.trim());
  tokenRequired.value = false;
  const waiting = requestsAwaitingToken;
  requestsAwaitingToken = [];
  for (const resume of waiting) resume();
}

/** @param {boolean} rejected */
function requestToken(rejected) {
  tokenRejected.value = rejected;
  tokenRequired.value = true;
  return new Promise((resolve) => requestsAwaitingToken.push(() => resolve(undefined)));
}

/** @param {string} name @param {Json} args */
function getRequest(name, args) {
  const rest = { ...args };
  const segments = GET_OPERATIONS[name].map((/** @type {string} */ parameter) => {
    const value = rest[parameter];
    delete rest[parameter];
    return `/${encodeURIComponent(value)}`;
  });
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(rest)) {
    if (value !== undefined && value !== null) query.set(key, String(value));
  }
  return { path: `${name}${segments.join("")}${query.size ? `?${query}` : ""}` };
}

/** @param {string} name @param {Json} args */
function postRequest(name, args) {
  const key = MUTATIONS.has(name) ? { "Idempotency-Key": randomKey() } : {};
  return {
    path: name,
    method: "POST",
    body: JSON.stringify(args),
    headers: { "Content-Type": "application/json", ...key },
  };
}

// `crypto.randomUUID` is not available in a page that was loaded over plain HTTP from another machine.
function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Response} response */
async function errorDetail(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `The store returned status ${response.status}.`;
  }
}
