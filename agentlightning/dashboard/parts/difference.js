// Two texts as one: what was taken out and what was put in, word by word.

import { diffWordsWithSpace } from "../vendor/diff/word.js";
import { diffLines } from "../vendor/diff/line.js";
import { html, useMemo } from "../ui.js";
import { visible } from "../words.js";

// Comparing words takes time with the square of what differs; of longer texts the lines are compared.
const LONGEST_BY_WORD = 20_000;

/** @param {{from: string, to: string}} props */
export function Difference({ from, to }) {
  const parts = useMemo(
    () => (from.length + to.length > LONGEST_BY_WORD ? diffLines(from, to) : diffWordsWithSpace(from, to)),
    [from, to],
  );
  if (from === to) return html`<p class="dim">The same in both.</p><pre class="value difference">${visible(to)}</pre>`;
  return html`<pre class="value difference" tabindex="0" aria-label="Difference">
${parts.map((/** @type {any} */ { added, removed, value }) => {
  if (added) return html`<ins>${visible(value)}</ins>`;
  return removed ? html`<del>${visible(value)}</del>` : html`<span>${visible(value)}</span>`;
})}</pre>`;
}
