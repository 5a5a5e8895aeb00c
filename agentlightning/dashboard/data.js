// Data on its way from the store to a view: asked for, shown while it is asked for again, kept current.

import { call, StoreError } from "./api.js";
import { onChange } from "./live.js";
import { signal, useCallback, useEffect, useRef, useState } from "./ui.js";

/** @typedef {import("./live.js").Change} Change */
/** @template T @typedef {{data: T | null, error: string | null, slow: boolean, reload: () => void}} Loaded */

/** Seconds since the epoch, every second; what says "12 s ago" reads it. */
export const now = signal(Date.now() / 1000);
setInterval(() => {
  if (!document.hidden) now.value = Date.now() / 1000;
}, 1_000);

const SLOW = 700;
// After a quiet while a change is fetched at once. While they keep coming, all pages ask at the same moments, by the
// clock, and the store works out one answer for all of them.
const BEAT = 1_000;

/**
 * What `load` gives: again when one of `keys` changes, and soon after a change in the store that it `concerns`.
 * @template T
 * @param {(options: {signal: AbortSignal}) => Promise<T>} load
 * @param {any[]} keys
 * @param {(change: Change) => boolean} [concerns]
 * @returns {Loaded<T>}
 */
export function useLoaded(load, keys, concerns = () => false) {
  const [state, setState] = useState({
    data: /** @type {T | null} */ (null),
    error: /** @type {string | null} */ (null),
  });
  const [slow, setSlow] = useState(false);
  const latest = useRef({ load, concerns });
  latest.current = { load, concerns };
  const running = useRef(/** @type {AbortController | null} */ (null));

  const loading = useRef(Promise.resolve());

  const begin = useCallback(async (/** @type {AbortController} */ abort) => {
    const late = setTimeout(() => setSlow(true), SLOW);
    try {
      const data = await latest.current.load({ signal: abort.signal });
      if (!abort.signal.aborted) setState({ data, error: null });
    } catch (error) {
      if (!abort.signal.aborted) setState((before) => ({ ...before, error: saidOf(error) }));
    } finally {
      clearTimeout(late);
      if (!abort.signal.aborted) setSlow(false);
    }
  }, []);
  const reload = useCallback(() => {
    running.current?.abort();
    running.current = new AbortController();
    loading.current = begin(running.current);
    return loading.current;
  }, []);

  useEffect(() => {
    setState((before) => ({ ...before, error: null }));
    reload();
    return () => running.current?.abort();
  }, keys);
  useEffect(
    () =>
      followChanges(
        (change) => latest.current.concerns(change),
        // What is on its way is shown first: a store that is slow would never be done otherwise.
        () => loading.current.then(reload),
      ),
    [],
  );
  return { ...state, slow, reload };
}

/** One operation of the store, as `useLoaded`. @param {string} name @param {Record<string, any>} given @param {(change: Change) => boolean} [concerns] */
export function useCall(name, given, concerns) {
  return useLoaded((options) => call(name, given, options), [name, JSON.stringify(given)], concerns);
}

/**
 * Call `reload` after a change that counts: at once after a quiet while, once in a beat in a steady stream of them,
 * never before the last one is done, and never while nobody looks.
 * @param {(change: Change) => boolean} counts
 * @param {() => Promise<void>} reload
 */
export function followChanges(counts, reload) {
  let due = 0;
  let last = 0;
  let running = false;
  let missed = false;
  let stopped = false;
  const soon = () => {
    if (due || running) {
      // A reload that runs may be too early for this change; one that is due is not.
      missed = missed || running;
      return;
    }
    const now = Date.now();
    due = setTimeout(load, now - last > BEAT ? 0 : BEAT - (now % BEAT));
  };
  const load = async () => {
    due = 0;
    last = Date.now();
    running = true;
    await reload();
    running = false;
    look();
  };
  const look = () => {
    if (document.hidden || stopped || !missed) return;
    missed = false;
    soon();
  };
  const stop = onChange((change) => {
    if (!change.everything && !counts(change)) return;
    if (document.hidden) missed = true;
    else soon();
  });
  document.addEventListener("visibilitychange", look);
  return () => {
    stop();
    stopped = true;
    clearTimeout(due);
    document.removeEventListener("visibilitychange", look);
  };
}

/** @param {any} error */
export function saidOf(error) {
  return error instanceof StoreError ? error.message : `The page failed: ${error?.message ?? error}`;
}
