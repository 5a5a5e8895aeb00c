// The keyboard: one place that knows which key does what, and the list of them that `?` shows.

import { signal, useLayoutEffect, useRef } from "./ui.js";

/** True while the list of keys is shown. */
export const helpShown = signal(false);

export const KEYS = [
  ["j / k", "next / previous row or span"],
  ["[ / ]", "previous / next rollout of the list"],
  ["Enter", "open the row; fold or unfold the span"],
  ["/", "search"],
  ["g o, g r, g s, g w", "overview, rollouts, resources, workers"],
  ["Esc", "close, or back to the list"],
  ["?", "this list"],
];

/** @type {Array<{current: Record<string, () => void>}>} */
const layers = [];
let pending = "";

/**
 * What keys do while a part is shown, from the moment it stands in the page; of the parts that know a key, the newest
 * counts.
 * @param {Record<string, () => void>} bindings
 */
export function useKeys(bindings) {
  const layer = useRef(bindings);
  layer.current = bindings;
  useLayoutEffect(() => {
    layers.push(layer);
    return () => void layers.splice(layers.indexOf(layer), 1);
  }, []);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = /** @type {HTMLElement} */ (event.target);
  const writing = target.matches?.("input, textarea, select") && target.getAttribute("type") !== "checkbox";
  if (writing && event.key !== "Escape") return;
  if (writing) target.blur();
  const stroke = pending + event.key;
  pending = event.key === "g" && !pending ? "g " : "";
  const action = layers.findLast(({ current }) => stroke in current)?.current[stroke];
  if (!action) return;
  event.preventDefault();
  action();
});
