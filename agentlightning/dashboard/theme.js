// The colour theme: light, dark, or the theme of the operating system.

import { effect, signal } from "./ui.js";

const STORAGE_KEY = "agl-theme";
const THEMES = ["system", "light", "dark"];

/** The selected theme: `system`, `light` or `dark`. */
export const theme = signal(savedTheme());

effect(() => {
  document.documentElement.style.colorScheme = theme.value === "system" ? "light dark" : theme.value;
});

/** Switch to the next theme and save it. */
export function nextTheme() {
  theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length];
  try {
    localStorage.setItem(STORAGE_KEY, theme.value);
  } catch {
    // Storage may be unavailable in a page opened from a file. The theme then lasts until the page is closed.
  }
}

function savedTheme() {
  try {
    const saved = localStorage.getItem(STORAGE_KEY);
    return saved && THEMES.includes(saved) ? saved : "system";
  } catch {
    return "system";
  }
}
