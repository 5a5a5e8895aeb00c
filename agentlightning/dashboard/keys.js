// The keyboard: one place that knows which key does what, and the list of them that `?` shows.

import { signal } from "./ui.js";

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

/** @type {Array<Record<string, () => void>>} */
const layers = [];
let pending = "";

/**
 * Bind keys while a view is shown; the newest binding of a key counts. Returns how to let go of them.
 * @param {Record<string, () => void>} bindings
 */
export function bind(bindings) {
  layers.push(bindings);
  return () => void layers.splice(layers.indexOf(bindings), 1);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = /** @type {HTMLElement} */ (event.target);
  const writing = target.matches?.("input, textarea, select") && target.getAttribute("type") !== "checkbox";
  if (writing && event.key !== "Escape") return;
  if (writing) target.blur();
  const stroke = pending + event.key;
  pending = event.key === "g" && !pending ? "g " : "";
  const action = [...layers].reverse().find((bindings) => stroke in bindings)?.[stroke];
  if (!action) return;
  event.preventDefault();
  action();
});
