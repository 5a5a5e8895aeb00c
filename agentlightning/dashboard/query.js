// Data from the store for a view: loaded, kept up to date, and returned with its loading and error state.

import { call, StoreError } from "./api.js";
import { onChange } from "./changes.js";
import { signal, useCallback, useEffect, useRef, useState } from "./ui.js";

/** @typedef {import("./changes.js").Change} Change */
/** @template T @typedef {{data: T | null, error: string | null, slow: boolean, reload: () => void}} Query */

/** The current time in seconds since the epoch, updated every second for the display of relative times. */
export const now = signal(Date.now() / 1000);
setInterval(() => {
  if (!document.hidden) now.value = Date.now() / 1000;
}, 1_000);

const SLOW_AFTER_MS = 700;
// The first change after a pause is fetched at once. During a steady stream of changes, all pages reload at the same
// times, so that the store can compute one response for all of them.
const RELOAD_INTERVAL_MS = 1_000;

/**
 * Return the result of `load`. It is loaded again when one of `keys` changes, and soon after each change in the store
 * that affects it.
 * @template T
 * @param {(options: {signal: AbortSignal}) => Promise<T>} load
 * @param {any[]} keys
 * @param {(change: Change) => boolean} [isAffected]
 * @returns {Query<T>}
 */
export function useQuery(load, keys, isAffected = () => false) {
  const [state, setState] = useState({
    data: /** @type {T | null} */ (null),
    error: /** @type {string | null} */ (null),
  });
  const [slow, setSlow] = useState(false);
  const latest = useRef({ load, isAffected });
  latest.current = { load, isAffected };
  const running = useRef(/** @type {AbortController | null} */ (null));
  const loading = useRef(Promise.resolve());

  const start = useCallback(async (/** @type {AbortController} */ abort) => {
    const timer = setTimeout(() => setSlow(true), SLOW_AFTER_MS);
    try {
      const data = await latest.current.load({ signal: abort.signal });
      if (!abort.signal.aborted) setState({ data, error: null });
    } catch (error) {
      if (!abort.signal.aborted) setState((before) => ({ ...before, error: errorMessage(error) }));
    } finally {
      clearTimeout(timer);
      if (!abort.signal.aborted) setSlow(false);
    }
  }, []);
  const reload = useCallback(() => {
    running.current?.abort();
    running.current = new AbortController();
    loading.current = start(running.current);
    return loading.current;
  }, []);

  useEffect(() => {
    setState((before) => ({ ...before, error: null }));
    reload();
    return () => running.current?.abort();
  }, keys);
  useEffect(
    () =>
      reloadOnChange(
        (change) => latest.current.isAffected(change),
        // Let a running load finish first. Otherwise, frequent changes would keep restarting a slow load.
        () => loading.current.then(reload),
      ),
    [],
  );
  return { ...state, slow, reload };
}

/**
 * Return the result of one operation of the store, as `useQuery` does.
 * @param {string} name
 * @param {Record<string, any>} args
 * @param {(change: Change) => boolean} [isAffected]
 */
export function useOperation(name, args, isAffected) {
  return useQuery((options) => call(name, args, options), [name, JSON.stringify(args)], isAffected);
}

/**
 * Call `reload` after each relevant change: at once after a pause, but only once per interval during a steady stream of
 * changes. A reload never starts before the previous one has finished, or while the page is hidden.
 * @param {(change: Change) => boolean} isRelevant
 * @param {() => Promise<void>} reload
 * @returns {() => void} stops reloading
 */
export function reloadOnChange(isRelevant, reload) {
  let timer = 0;
  let lastReload = 0;
  let running = false;
  let missed = false;
  let stopped = false;
  const schedule = () => {
    if (timer || running) {
      // A running reload may have read the store before this change, so another reload must follow it.
      missed = missed || running;
      return;
    }
    const time = Date.now();
    timer = setTimeout(
      run,
      time - lastReload > RELOAD_INTERVAL_MS ? 0 : RELOAD_INTERVAL_MS - (time % RELOAD_INTERVAL_MS),
    );
  };
  const run = async () => {
    timer = 0;
    lastReload = Date.now();
    running = true;
    await reload();
    running = false;
    reloadMissed();
  };
  const reloadMissed = () => {
    if (document.hidden || stopped || !missed) return;
    missed = false;
    schedule();
  };
  const unsubscribe = onChange((change) => {
    if (!change.everything && !isRelevant(change)) return;
    if (document.hidden) missed = true;
    else schedule();
  });
  document.addEventListener("visibilitychange", reloadMissed);
  return () => {
    unsubscribe();
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", reloadMissed);
  };
}

/** @param {any} error */
export function errorMessage(error) {
  return error instanceof StoreError ? error.message : `Dashboard error: ${error?.message ?? error}`;
}
