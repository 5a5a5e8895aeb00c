// The layout around every view: navigation, connection state, dialogs and notifications.

import { saveToken, tokenRejected, tokenRequired } from "../api.js";
import { connection, readOnly } from "../changes.js";
import { embeddedRun } from "../embedded.js";
import { SHORTCUTS, helpOpen, useKeyBindings } from "../keyboard.js";
import { link, navigate, route } from "../route.js";
import { nextTheme, theme } from "../theme.js";
import { html, useEffect, useLayoutEffect, useRef } from "../ui.js";
import { Notifications } from "./notifications.js";

const VIEWS = [
  ["overview", "Overview", "g o"],
  ["rollouts", "Rollouts", "g r"],
  ["resources", "Resources", "g s"],
  ["workers", "Workers", "g w"],
];
const CONNECTION_LABELS = {
  connecting: "connecting…",
  live: "live",
  polling: "polling every 2 s",
  unreachable: "store unreachable, reconnecting…",
  static: "finished run",
};
const THEME_ICONS = { system: "◐", light: "☀", dark: "☾" };

/** @param {{children?: any}} props */
export function Layout({ children }) {
  const openHelp = () => (helpOpen.value = true);
  useKeyBindings({
    ...Object.fromEntries(VIEWS.map(([view, , key]) => [key, () => navigate(link(view))])),
    "?": openHelp,
  });
  const { view } = route.value;
  useEffect(() => {
    document.title = `${VIEWS.find(([name]) => name === view)?.[1] ?? "Page"} · Agent Lightning`;
  }, [view]);
  return html`
    <header class="layout">
      <a class="brand" href="#/"><span class="bolt" aria-hidden="true">⚡</span> <span>Agent Lightning</span></a>
      <nav aria-label="Views">
        ${VIEWS.map(
          ([name, title]) =>
            html`<a href=${link(name)} aria-current=${name === view ? "page" : undefined}>${title}</a>`,
        )}
      </nav>
      <${ConnectionState} />
      <button class="quiet" title=${`Theme: ${theme.value}`} aria-label=${`Theme: ${theme.value}`} onClick=${nextTheme}>
        ${THEME_ICONS[/** @type {keyof typeof THEME_ICONS} */ (theme.value)]}
      </button>
      <button class="quiet" title="Keyboard shortcuts (?)" aria-label="Keyboard shortcuts" onClick=${openHelp}>?</button>
    </header>
    <main id="main">${children}</main>
    <${Notifications} />
    ${helpOpen.value && html`<${KeyboardHelp} />`} ${tokenRequired.value && html`<${TokenForm} />`}
  `;
}

function ConnectionState() {
  const exported = embeddedRun()?.run.exported;
  const finished = readOnly.value && connection.value === "live";
  const connected = finished ? "finished run, read-only" : CONNECTION_LABELS[connection.value];
  return html`<span class="connection ${connection.value}" role="status">
    <span class="dot" aria-hidden="true"></span> ${exported ? `exported ${exported}` : connected}
  </span>`;
}

/** @param {{title: string, close?: () => void, children?: any}} props */
function Dialog({ title, close, children }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useKeyBindings(close ? { Escape: close } : {});
  useLayoutEffect(() => dialog.current?.showModal(), []);
  return html`<dialog ref=${dialog} aria-label=${title} onCancel=${close} onClose=${close}>
    <h2>${title}</h2>
    ${children}
  </dialog>`;
}

function KeyboardHelp() {
  const close = () => (helpOpen.value = false);
  return html`<${Dialog} title="Keyboard shortcuts" close=${close}>
    <dl class="keys">
      ${SHORTCUTS.map(([key, action]) => html`<dt><kbd>${key}</kbd></dt><dd>${action}</dd>`)}
    </dl>
    <button onClick=${close}>Close</button>
  <//>`;
}

/** A form that asks for the store's token and saves it for this tab. */
function TokenForm() {
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    saveToken(field.current?.value ?? "");
  };
  return html`<${Dialog} title="Token required">
    <form onSubmit=${submit}>
      <label>
        The store's token, as set with <code>agl store --token</code> or <code>AGL_TOKEN</code>
        <input ref=${field} type="password" autocomplete="off" required />
      </label>
      ${tokenRejected.value && html`<p class="bad" role="alert">The store rejected this token.</p>`}
      <p class="dim">Saved for this tab only, and removed when the tab is closed.</p>
      <button class="main">Continue</button>
    </form>
  <//>`;
}
