// Keyboard shortcuts: key bindings, and the list of shortcuts that the key `?` opens.

import { signal, useLayoutEffect, useRef } from "./ui.js";

/** True while the list of shortcuts is open. */
export const helpOpen = signal(false);

export const SHORTCUTS = [
  ["j / k", "next / previous row or span"],
  ["[ / ]", "previous / next rollout in the list"],
  ["Enter", "open the row; expand or collapse the span"],
  ["/", "search"],
  ["g o, g r, g s, g w", "overview, rollouts, resources, workers"],
  ["Esc", "close, or back to the list"],
  ["?", "keyboard shortcuts"],
];

/** @type {Array<{current: Record<string, () => void>}>} */
const layers = [];
let prefix = "";

/**
 * Bind keys while a component is mounted. If several components bind a key, the one mounted last takes precedence.
 * @param {Record<string, () => void>} bindings
 */
export function useKeyBindings(bindings) {
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
  const typing = target.matches?.("input, textarea, select") && target.getAttribute("type") !== "checkbox";
  if (typing && event.key !== "Escape") return;
  if (typing) target.blur();
  const stroke = prefix + event.key;
  prefix = event.key === "g" && !prefix ? "g " : "";
  const action = layers.findLast(({ current }) => stroke in current)?.current[stroke];
  if (!action) return;
  event.preventDefault();
  action();
});
