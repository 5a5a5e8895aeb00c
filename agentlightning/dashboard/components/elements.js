// Basic elements of the views: times, badges, links, copy buttons, values, and loading and empty states.

import { exactTime, prettyPrint, printable, relativeTime, score, statusLabel } from "../format.js";
import { now } from "../query.js";
import { link } from "../route.js";
import { html, useState } from "../ui.js";
import { notify } from "./notifications.js";

/**
 * A relative time, such as `12 s ago`, with the exact time as a tooltip.
 * @param {{at: number | null | undefined}} props
 */
export function Time({ at }) {
  if (at === null || at === undefined) return html`<span class="dim">–</span>`;
  return html`<time datetime=${isoTime(at)} title=${exactTime(at)}>${relativeTime(at, now.value)}</time>`;
}

/** @param {{status: string}} props */
export function Status({ status }) {
  return html`<span class="status ${status}">${statusLabel(status)}</span>`;
}

/** @param {{value: number | null | undefined}} props */
export function Reward({ value }) {
  return html`<span class="number ${value === null || value === undefined ? "dim" : ""}">${score(value)}</span>`;
}

/** @param {{id: string | null | undefined, version?: number | null}} props */
export function ResourcesLink({ id, version }) {
  if (!id) return html`<span class="dim">–</span>`;
  const name = version ? `${id}@${version}` : id;
  return html`<a class="id" href=${link("resources", null, { right: name })}>${printable(name)}</a>`;
}

/** @param {{id: string, params?: Record<string, any>}} props */
export function RolloutLink({ id, params }) {
  return html`<a class="id" href=${link("rollouts", id, params)}>${printable(id)}</a>`;
}

/**
 * A button that copies `text`.
 * @param {{text: () => string, label: string, name: string}} props `name`: the noun in the notification "Copied the …"
 */
export function CopyButton({ text, label, name }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      notify(`Copied the ${name}.`);
    } catch {
      notify("The browser denies this page access to the clipboard.", { isError: true });
    }
  };
  return html`<button class="small" onClick=${copy}>${label}</button>`;
}

/**
 * A placeholder for a query without data: a loading message or the error.
 * @param {{query: import("../query.js").Query<any>, name: string}} props
 */
export function Loading({ query, name }) {
  if (query.error) {
    return html`<p class="error-message" role="alert">
      ${printable(query.error)} <button class="small" onClick=${query.reload}>Retry</button>
    </p>`;
  }
  return html`<p class="loading" aria-busy="true">${query.slow ? `Still loading ${name}…` : `Loading ${name}…`}</p>`;
}

const MAX_INLINE_LENGTH = 100;
const MAX_PREVIEW_LENGTH = 4_000;

/** A value, truncated until the user expands it if it is long. @param {{value: any, label?: string}} props */
export function Value({ value, label = "value" }) {
  const [expanded, setExpanded] = useState(false);
  const text = prettyPrint(value);
  if (text.length <= MAX_INLINE_LENGTH && !text.includes("\n")) {
    return html`<code class="value" dir="auto">${text}</code>`;
  }
  if (text.length <= MAX_PREVIEW_LENGTH) return html`<pre class="value" tabindex="0" aria-label=${label}>${text}</pre>`;
  if (expanded) return html`<${LongText} text=${text} label=${label} />`;
  return html`<div>
    <pre class="value" tabindex="0" aria-label=${label}>${text.slice(0, MAX_PREVIEW_LENGTH)}…</pre>
    <button class="small" onClick=${() => setExpanded(true)}>Show all ${text.length.toLocaleString("en-US")} characters</button>
  </div>`;
}

const CHUNK_LENGTH = 8_000;

/**
 * A long text, split into chunks so that the browser lays out only the visible ones.
 * @param {{text: string, label: string}} props
 */
function LongText({ text, label }) {
  const chunks = [];
  for (let from = 0, to; from < text.length; from = to) {
    to = from + CHUNK_LENGTH;
    const end = Math.max(text.lastIndexOf("\n", to), text.lastIndexOf(" ", to));
    if (to < text.length && end > from) to = end + 1;
    chunks.push(text.slice(from, to));
  }
  return html`<pre class="value" tabindex="0" aria-label=${label}>
${chunks.map((chunk) => html`<span class="chunk">${chunk}</span>`)}</pre>`;
}

/**
 * A message for an empty view, optionally with a command that adds data.
 * @param {{children?: any, command?: string}} props
 */
export function EmptyState({ children, command }) {
  return html`<div class="empty"><p>${children}</p>${command && html`<pre>${command}</pre>`}</div>`;
}

/** @param {number} time */
function isoTime(time) {
  const date = new Date(time * 1000);
  return Number.isNaN(date.getTime()) ? undefined : date.toISOString();
}
