// Links and keys for the previous and next rollout in the list from which a rollout was opened.

import { call } from "../api.js";
import { useKeyBindings } from "../keyboard.js";
import { useQuery } from "../query.js";
import { link, navigate, route } from "../route.js";
import { useLayoutEffect } from "../ui.js";
import { listParams, rolloutQuery } from "./rollouts.js";

const LIST_MARGIN = 30;

/** Steps requested before the list was loaded: the rollout to start from, and the number of steps forwards. */
let pending = { from: /** @type {string | null} */ (null), steps: 0 };

/**
 * Return links to the previous and next rollout, and bind the keys `[` and `]` to them. If a key is pressed before the
 * list has been loaded, it takes effect once the list is available.
 * @param {string} id
 * @param {Record<string, string>} params
 */
export function useAdjacentRollouts(id, params) {
  const linkAt = useListLinks(id, params);
  const applyPending = () => {
    if (!linkAt || pending.from !== id) return;
    const url = linkAt(pending.steps);
    pending = { from: null, steps: 0 };
    if (url) navigate(url);
  };
  const step = (/** @type {number} */ by) => {
    // Read the id from the URL, because the step from the previous key press may not have been rendered yet.
    const from = route.value.id;
    pending = { from, steps: by + (pending.from === from ? pending.steps : 0) };
    applyPending();
  };
  useKeyBindings({ "[": () => step(-1), "]": () => step(1) });
  useLayoutEffect(applyPending, [linkAt]);
  useLayoutEffect(() => () => void (pending.from === id && (pending = { from: null, steps: 0 })), []);
  return { previous: linkAt?.(-1) ?? null, next: linkAt?.(1) ?? null };
}

/**
 * Return a function that maps a number of steps to a link, or null until the list has been loaded.
 * @param {string} id
 * @param {Record<string, string>} params
 */
function useListLinks(id, params) {
  const index = Number(params.at ?? NaN);
  const key = JSON.stringify([id, listParams(params), index]);
  const loaded = useQuery(
    async (options) => {
      if (Number.isNaN(index)) return { key, linkAt: () => null };
      // The list may have grown since the rollout was opened, so search for the rollout around its earlier index.
      const offset = Math.max(0, index - LIST_MARGIN);
      const query = { ...rolloutQuery(params), offset, limit: 2 * LIST_MARGIN + 1 };
      const { items } = await call("query_rollouts", query, options);
      const current = items.findIndex((/** @type {any} */ rollout) => rollout.rollout_id === id);
      const linkAt = (/** @type {number} */ by) => {
        const target = Math.max(0, Math.min(items.length - 1, current + by));
        if (current < 0 || target === current) return null;
        return link("rollouts", items[target].rollout_id, { ...listParams(params), at: offset + target });
      };
      return { key, linkAt };
    },
    [key],
  );
  return loaded.data?.key === key ? loaded.data.linkAt : null;
}
