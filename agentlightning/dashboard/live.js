// What changes in the store, as it happens: server-sent events, and asking again where those do not come through.
//
// The stream is read with `fetch`, because an EventSource cannot send the store's token.

import { send, StoreError } from "./api.js";
import { carriedRun } from "./carried.js";
import { signal } from "./ui.js";

/**
 * What has changed. `rollouts` holds what is new of each by its id, `spans` the rollouts that have new spans;
 * `everything` says that it may be more than is told here.
 * @typedef {{rollouts: Record<string, any>, spans: string[], workers: boolean, resources: boolean,
 *   everything: boolean}} Change
 */

/** @type {import("./vendor/signals.js").Signal<"connecting" | "live" | "polling" | "away" | "still">} */
export const connection = signal("connecting");

/** True where nothing can be changed: a run that is only looked at. */
export const unchangeable = signal(carriedRun() !== null);

/** @type {Change} */
const EVERYTHING = { rollouts: {}, spans: [], workers: true, resources: true, everything: true };
const FIRST_WAIT = 300;
const LONGEST_WAIT = 5_000;
const POLL_EVERY = 2_000;
const SILENCE = 40_000;
const HIDDEN = 5_000;

/** @type {Set<(change: Change) => void>} */
const listeners = new Set();
let lastId = "";

/** Hear of changes until the returned function is called. @param {(change: Change) => void} listener */
export function onChange(listener) {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

/** Listen for as long as the page is open. */
export async function listen() {
  if (carriedRun()) {
    connection.value = "still";
    return;
  }
  for (let wait = FIRST_WAIT; ; wait = Math.min(wait * 2, LONGEST_WAIT)) {
    await lookedAt();
    try {
      await stream(() => (wait = FIRST_WAIT));
    } catch (error) {
      if (error instanceof StoreError && error.status >= 400 && error.status < 500) return poll();
    }
    connection.value = "away";
    await pause(wait * (0.5 + Math.random()));
  }
}

/** @param {() => void} connected */
async function stream(connected) {
  const abort = new AbortController();
  // A browser opens six connections to one store and no more: pages in the background let go of theirs.
  whenHidden(() => abort.abort(), abort.signal);
  /** @type {Record<string, string>} */
  const headers = { Accept: "text/event-stream" };
  if (lastId) headers["Last-Event-ID"] = lastId;
  const response = await send({ path: "events", headers }, abort.signal);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let text = "";
  let watch = 0;
  for (;;) {
    // The store says something every 15 seconds; a laptop that slept finds a dead connection this way.
    watch = setTimeout(() => abort.abort(), SILENCE);
    const { done, value } = await reader.read().finally(() => clearTimeout(watch));
    if (done) return abort.abort();
    connected();
    connection.value = "live";
    text += decoder.decode(value, { stream: true });
    const events = text.split("\n\n");
    text = events.pop() ?? "";
    events.forEach(take);
  }
}

/** Until somebody looks at the page. */
function lookedAt() {
  if (!document.hidden) return;
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve(undefined);
    };
    document.addEventListener("visibilitychange", look);
  });
}

/** @param {() => void} act @param {AbortSignal} unless */
function whenHidden(act, unless) {
  let due = 0;
  const look = () => {
    clearTimeout(due);
    if (document.hidden) due = setTimeout(act, HIDDEN);
  };
  document.addEventListener("visibilitychange", look, { signal: unless });
}

/** @param {string} event */
function take(event) {
  /** @type {Record<string, string>} */
  const fields = {};
  for (const line of event.split("\n")) {
    const [name, value] = line.split(/: ?(.*)/s, 2);
    fields[name] = value ?? "";
  }
  if (fields.id) lastId = fields.id;
  if (fields.data) tell(JSON.parse(fields.data));
}

/** For a store, or something in front of it, that has no events. */
async function poll() {
  connection.value = "polling";
  for (;;) {
    await pause(POLL_EVERY);
    if (!document.hidden) tell(EVERYTHING);
  }
}

/** @param {Partial<Change> & {read_only?: boolean}} change */
function tell(change) {
  if (change.read_only) unchangeable.value = true;
  const whole = { ...EVERYTHING, workers: false, resources: false, everything: false, ...change };
  for (const listener of [...listeners]) listener(whole);
}

/** @param {number} milliseconds */
function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
