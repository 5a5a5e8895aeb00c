// What surrounds every view: where one can go, whether it is live, dialogs and messages.

import { tokenWanted } from "../api.js";
import { carriedRun } from "../carried.js";
import { helpShown, useKeys } from "../keys.js";
import { connection, unchangeable } from "../live.js";
import { go, link, route } from "../route.js";
import { nextTheme, theme } from "../theme.js";
import { html, useEffect } from "../ui.js";
import { Help, TokenForm } from "./dialogs.js";
import { Messages } from "./messages.js";

const VIEWS = [
  ["overview", "Overview", "g o"],
  ["rollouts", "Rollouts", "g r"],
  ["resources", "Resources", "g s"],
  ["workers", "Workers", "g w"],
];
const CONNECTION = {
  connecting: "connecting…",
  live: "live",
  polling: "asking every 2 s",
  away: "store away, trying again…",
  still: "finished run",
};
const THEME = { system: "◐", light: "☀", dark: "☾" };

/** @param {{children?: any}} props */
export function Frame({ children }) {
  useKeys({
    ...Object.fromEntries(VIEWS.map(([view, , key]) => [key, () => go(link(view))])),
    "?": () => (helpShown.value = true),
  });
  const { view } = route.value;
  useEffect(() => {
    document.title = `${VIEWS.find(([name]) => name === view)?.[1] ?? "Page"} · Agent Lightning`;
  }, [view]);
  return html`
    <header class="frame">
      <a class="brand" href="#/"><span class="bolt" aria-hidden="true">⚡</span> <span>Agent Lightning</span></a>
      <nav aria-label="Views">
        ${VIEWS.map(
          ([name, title]) =>
            html`<a href=${link(name)} aria-current=${name === view ? "page" : undefined}>${title}</a>`,
        )}
      </nav>
      <${Connection} />
      <button class="quiet" title=${`Theme: ${theme.value}`} aria-label=${`Theme: ${theme.value}`} onClick=${nextTheme}>
        ${THEME[/** @type {keyof typeof THEME} */ (theme.value)]}
      </button>
      <button class="quiet" title="Keys (?)" aria-label="Keys" onClick=${() => (helpShown.value = true)}>?</button>
    </header>
    <main id="main">${children}</main>
    <${Messages} />
    ${helpShown.value && html`<${Help} />`} ${tokenWanted.value && html`<${TokenForm} />`}
  `;
}

function Connection() {
  const run = carriedRun();
  const still = unchangeable.value && connection.value === "live";
  const said = run ? `exported ${run.run.exported}` : still ? "finished run, read-only" : CONNECTION[connection.value];
  return html`<span class="connection ${connection.value}" role="status">
    <span class="dot" aria-hidden="true"></span> ${said}
  </span>`;
}
