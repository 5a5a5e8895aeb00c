// Small pieces that every view uses: times, badges, links to things, copying, and words while nothing is there yet.

import { now } from "../data.js";
import { link } from "../route.js";
import { html, useState } from "../ui.js";
import { ago, exactTime, full, score, visible } from "../words.js";
import { say } from "./messages.js";

/** A time as "12 s ago", the exact one on hover. @param {{at: number | null | undefined}} props */
export function Time({ at }) {
  if (at === null || at === undefined) return html`<span class="dim">–</span>`;
  return html`<time datetime=${iso(at)} title=${exactTime(at)}>${ago(at, now.value)}</time>`;
}

/** @param {{status: string}} props */
export function Status({ status }) {
  return html`<span class="status ${status}">${status}</span>`;
}

/** @param {{value: number | null | undefined}} props */
export function Reward({ value }) {
  return html`<span class="number ${value === null || value === undefined ? "dim" : ""}">${score(value)}</span>`;
}

/** @param {{id: string | null | undefined, version?: number | null}} props */
export function ResourcesLink({ id, version }) {
  if (!id) return html`<span class="dim">–</span>`;
  const name = version ? `${id}@${version}` : id;
  return html`<a class="id" href=${link("resources", null, { right: name })}>${visible(name)}</a>`;
}

/** @param {{id: string, params?: Record<string, any>}} props */
export function RolloutLink({ id, params }) {
  return html`<a class="id" href=${link("rollouts", id, params)}>${visible(id)}</a>`;
}

/** @param {{text: () => string | Promise<string>, label: string}} props */
export function Copy({ text, label }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(await text());
      say(`Copied: ${label.toLowerCase()}`);
    } catch {
      say("The browser does not let this page copy.", { bad: true });
    }
  };
  return html`<button class="small" onClick=${copy}>${label}</button>`;
}

/** What to show while there is no data: what is waited for, or what went wrong. @param {{of: import("../data.js").Loaded<any>, what: string}} props */
export function Waiting({ of, what }) {
  if (of.error) {
    return html`<p class="problem" role="alert">
      ${visible(of.error)} <button class="small" onClick=${of.reload}>Try again</button>
    </p>`;
  }
  return html`<p class="waiting" aria-busy="true">${of.slow ? `Still fetching ${what}…` : `Fetching ${what}…`}</p>`;
}

const ONE_LINE = 100;
const SHORT = 4_000;

/** A value in full, its beginning first where it is long. @param {{value: any, label?: string}} props */
export function Value({ value, label = "value" }) {
  const [whole, setWhole] = useState(false);
  const text = full(value);
  if (text.length <= ONE_LINE && !text.includes("\n")) return html`<code class="value" dir="auto">${text}</code>`;
  if (text.length <= SHORT) return html`<pre class="value" tabindex="0" aria-label=${label}>${text}</pre>`;
  if (whole) return html`<${Long} text=${text} label=${label} />`;
  return html`<div>
    <pre class="value" tabindex="0" aria-label=${label}>${text.slice(0, SHORT)}…</pre>
    <button class="small" onClick=${() => setWhole(true)}>Show all ${text.length.toLocaleString("en-US")} characters</button>
  </div>`;
}

const PIECE = 8_000;

/** A long text in pieces, of which the browser lays out those that can be seen. @param {{text: string, label: string}} props */
function Long({ text, label }) {
  const pieces = [];
  for (let from = 0, to; from < text.length; from = to) {
    to = from + PIECE;
    const end = Math.max(text.lastIndexOf("\n", to), text.lastIndexOf(" ", to));
    if (to < text.length && end > from) to = end + 1;
    pieces.push(text.slice(from, to));
  }
  return html`<pre class="value" tabindex="0" aria-label=${label}>
${pieces.map((piece) => html`<span class="piece">${piece}</span>`)}</pre>`;
}

/** An empty place, and the command that fills it. @param {{children?: any, command?: string}} props */
export function Empty({ children, command }) {
  return html`<div class="empty"><p>${children}</p>${command && html`<pre>${command}</pre>`}</div>`;
}

/** @param {number} time */
function iso(time) {
  const date = new Date(time * 1000);
  return Number.isNaN(date.getTime()) ? undefined : date.toISOString();
}
