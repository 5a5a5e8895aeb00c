// Light, dark, or whatever the system says.

import { effect, signal } from "./ui.js";

const KEPT = "agl-theme";
const THEMES = ["system", "light", "dark"];

/** The theme chosen: `system`, `light` or `dark`. */
export const theme = signal(chosen());

effect(() => {
  document.documentElement.style.colorScheme = theme.value === "system" ? "light dark" : theme.value;
});

/** The next of the three. */
export function nextTheme() {
  theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length];
  try {
    localStorage.setItem(KEPT, theme.value);
  } catch {
    // A page from a file may have no storage; the theme lasts as long as the page then.
  }
}

function chosen() {
  try {
    const kept = localStorage.getItem(KEPT);
    return kept && THEMES.includes(kept) ? kept : "system";
  } catch {
    return "system";
  }
}
