// The difference between two texts, word by word.

import { diffWordsWithSpace } from "../vendor/diff/word.js";
import { diffLines } from "../vendor/diff/line.js";
import { printable } from "../format.js";
import { html, useMemo } from "../ui.js";

// The time for a word diff is quadratic in the size of the difference, so longer texts are first compared by line.
const MAX_WORD_DIFF_LENGTH = 20_000;

/** @typedef {{added?: boolean, removed?: boolean, value: string}} Part */

/** @param {{from: string, to: string}} props */
export function TextDiff({ from, to }) {
  const parts = useMemo(() => diffParts(from, to), [from, to]);
  if (from === to) return html`<p class="dim">No differences.</p><pre class="value diff">${printable(to)}</pre>`;
  return html`<pre class="value diff" tabindex="0" aria-label="Difference">
${parts.map(({ added, removed, value }) => {
  if (added) return html`<ins>${printable(value)}</ins>`;
  return removed ? html`<del>${printable(value)}</del>` : html`<span>${printable(value)}</span>`;
})}</pre>`;
}

/**
 * Compare two texts by word. Long texts are compared by line, and only the replaced lines by word.
 * @param {string} from
 * @param {string} to
 * @returns {Part[]}
 */
function diffParts(from, to) {
  if (from.length + to.length <= MAX_WORD_DIFF_LENGTH) return diffWordsWithSpace(from, to);
  /** @type {Part[]} */
  const lines = diffLines(from, to);
  return lines.flatMap((line, index) => {
    const [before, after] = [lines[index - 1], lines[index + 1]];
    if (line.added && before?.removed && isShort(before, line)) return [];
    return line.removed && after?.added && isShort(line, after) ? diffWordsWithSpace(line.value, after.value) : [line];
  });
}

/** @param {Part} one @param {Part} other */
function isShort(one, other) {
  return one.value.length + other.value.length <= MAX_WORD_DIFF_LENGTH;
}
