// Live changes from the store: server-sent events, or polling if events are not available.
//
// The stream is read with `fetch`, because an EventSource cannot send the store's token.

import { sendRequest, StoreError } from "./api.js";
import { embeddedRun } from "./embedded.js";
import { signal } from "./ui.js";

/**
 * A change in the store. `rollouts` maps the id of each changed rollout to its new fields. `spans` lists the ids of
 * rollouts with new spans. `workers` and `resources` are true if any workers or resources have changed. `everything`
 * is true if more may have changed than is listed.
 * @typedef {{rollouts: Record<string, any>, spans: string[], workers: boolean, resources: boolean,
 *   everything: boolean}} Change
 */

/** @type {import("./vendor/signals.js").Signal<"connecting" | "live" | "polling" | "unreachable" | "static">} */
export const connection = signal("connecting");

/** True if nothing can be changed: the page is an exported run, or the store was opened read-only. */
export const readOnly = signal(embeddedRun() !== null);

/** @type {Change} */
const EVERYTHING = { rollouts: {}, spans: [], workers: true, resources: true, everything: true };
const FIRST_RETRY_MS = 300;
const LAST_RETRY_MS = 5_000;
const POLL_INTERVAL_MS = 2_000;
// The store sends a comment every 15 seconds. A longer silence means that the connection is dead, for example because
// the computer was asleep.
const SILENCE_TIMEOUT_MS = 40_000;
const HIDDEN_TIMEOUT_MS = 5_000;

/** @type {Set<(change: Change) => void>} */
const listeners = new Set();
let lastEventId = "";

/** Call `listener` for each change until the returned function is called. @param {(change: Change) => void} listener */
export function onChange(listener) {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

/** Receive changes for as long as the page is open. */
export async function watchChanges() {
  if (embeddedRun()) {
    connection.value = "static";
    return;
  }
  for (let wait = FIRST_RETRY_MS; ; wait = Math.min(wait * 2, LAST_RETRY_MS)) {
    await untilVisible();
    try {
      await readStream(() => (wait = FIRST_RETRY_MS));
    } catch (error) {
      if (error instanceof StoreError && error.status >= 400 && error.status < 500) return poll();
    }
    connection.value = "unreachable";
    await sleep(wait * (0.5 + Math.random()));
  }
}

/** @param {() => void} onData */
async function readStream(onData) {
  const abort = new AbortController();
  // A browser opens at most six connections to one server, so pages in the background close theirs.
  abortWhenHidden(abort);
  /** @type {Record<string, string>} */
  const headers = { Accept: "text/event-stream" };
  if (lastEventId) headers["Last-Event-ID"] = lastEventId;
  const response = await sendRequest({ path: "events", headers }, abort.signal);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const timer = setTimeout(() => abort.abort(), SILENCE_TIMEOUT_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return abort.abort();
    onData();
    connection.value = "live";
    text += decoder.decode(value, { stream: true });
    const events = text.split("\n\n");
    text = events.pop() ?? "";
    events.forEach(handleEvent);
  }
}

function untilVisible() {
  if (!document.hidden) return;
  return new Promise((resolve) => {
    const resolveWhenVisible = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", resolveWhenVisible);
      resolve(undefined);
    };
    document.addEventListener("visibilitychange", resolveWhenVisible);
  });
}

/** @param {AbortController} abort */
function abortWhenHidden(abort) {
  let timer = 0;
  const restartTimer = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => abort.abort(), HIDDEN_TIMEOUT_MS);
  };
  document.addEventListener("visibilitychange", restartTimer, { signal: abort.signal });
}

/** @param {string} event */
function handleEvent(event) {
  /** @type {Record<string, string>} */
  const fields = {};
  for (const line of event.split("\n")) {
    const [name, value] = line.split(/: ?(.*)/s, 2);
    fields[name] = value ?? "";
  }
  if (fields.id) lastEventId = fields.id;
  if (fields.data) publish(JSON.parse(fields.data));
}

/** Reload everything at regular intervals, for a store or reverse proxy that does not support events. */
async function poll() {
  connection.value = "polling";
  for (;;) {
    await sleep(POLL_INTERVAL_MS);
    if (!document.hidden) publish(EVERYTHING);
  }
}

/** @param {Partial<Change> & {read_only?: boolean}} fields */
function publish(fields) {
  if (fields.read_only) readOnly.value = true;
  const change = { ...EVERYTHING, workers: false, resources: false, everything: false, ...fields };
  for (const listener of [...listeners]) listener(change);
}

/** @param {number} milliseconds */
function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
