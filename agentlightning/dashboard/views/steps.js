// From one rollout to the next in the list it was opened from: where the steps lead, and the keys that take them.

import { call } from "../api.js";
import { useLoaded } from "../data.js";
import { useKeys } from "../keys.js";
import { go, link, route } from "../route.js";
import { useLayoutEffect } from "../ui.js";
import { listOf, queryOf } from "./rollouts.js";

const AROUND = 30;

/** The rollout that steps were taken from whose list was not known yet, and how many forwards. */
let owed = { from: /** @type {string | null} */ (null), by: 0 };

/**
 * The links to the rollouts before and after this one, and `[` and `]` to go there. A key that is pressed before the
 * list is here is carried out when it comes.
 * @param {string} id
 * @param {Record<string, string>} params
 */
export function useSteps(id, params) {
  const to = useList(id, params);
  const settle = () => {
    if (!to || owed.from !== id) return;
    const next = to(owed.by);
    owed = { from: null, by: 0 };
    if (next) go(next);
  };
  const step = (/** @type {number} */ by) => {
    // From what the URL says: a key may be pressed before the step before it is drawn.
    const from = route.value.id;
    owed = { from, by: by + (owed.from === from ? owed.by : 0) };
    settle();
  };
  useKeys({ "[": () => step(-1), "]": () => step(1) });
  useLayoutEffect(settle, [to]);
  useLayoutEffect(() => () => void (owed.from === id && (owed = { from: null, by: 0 })), []);
  return { previous: to?.(-1) ?? null, next: to?.(1) ?? null };
}

/** Where so many steps through the list lead, as soon as that is known. @param {string} id @param {Record<string, string>} params */
function useList(id, params) {
  const at = Number(params.at ?? NaN);
  const place = JSON.stringify([id, listOf(params), at]);
  const loaded = useLoaded(
    async (options) => {
      if (Number.isNaN(at)) return { place, to: () => null };
      // The list may have grown since: the rollout is looked for around where it was.
      const offset = Math.max(0, at - AROUND);
      const { items } = await call("query_rollouts", { ...queryOf(params), offset, limit: 2 * AROUND + 1 }, options);
      const index = items.findIndex((/** @type {any} */ rollout) => rollout.rollout_id === id);
      const to = (/** @type {number} */ by) => {
        const there = Math.max(0, Math.min(items.length - 1, index + by));
        if (index < 0 || there === index) return null;
        return link("rollouts", items[there].rollout_id, { ...listOf(params), at: offset + there });
      };
      return { place, to };
    },
    [place],
  );
  return loaded.data?.place === place ? loaded.data.to : null;
}
