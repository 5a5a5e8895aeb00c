// Two texts as one: what was taken out and what was put in, word by word.

import { diffWordsWithSpace } from "../vendor/diff/word.js";
import { diffLines } from "../vendor/diff/line.js";
import { html, useMemo } from "../ui.js";
import { visible } from "../words.js";

// Comparing words takes time with the square of what differs: of longer texts the lines are compared first.
const LONGEST_BY_WORD = 20_000;

/** @typedef {{added?: boolean, removed?: boolean, value: string}} Piece */

/** @param {{from: string, to: string}} props */
export function Difference({ from, to }) {
  const pieces = useMemo(() => piecesOf(from, to), [from, to]);
  if (from === to) return html`<p class="dim">The same in both.</p><pre class="value difference">${visible(to)}</pre>`;
  return html`<pre class="value difference" tabindex="0" aria-label="Difference">
${pieces.map(({ added, removed, value }) => {
  if (added) return html`<ins>${visible(value)}</ins>`;
  return removed ? html`<del>${visible(value)}</del>` : html`<span>${visible(value)}</span>`;
})}</pre>`;
}

/** Line by line first; where lines were changed for others, word by word. @param {string} from @param {string} to @returns {Piece[]} */
function piecesOf(from, to) {
  if (from.length + to.length <= LONGEST_BY_WORD) return diffWordsWithSpace(from, to);
  /** @type {Piece[]} */
  const lines = diffLines(from, to);
  return lines.flatMap((line, at) => {
    const [before, after] = [lines[at - 1], lines[at + 1]];
    if (line.added && before?.removed && isComparable(before, line)) return [];
    return line.removed && after?.added && isComparable(line, after)
      ? diffWordsWithSpace(line.value, after.value)
      : [line];
  });
}

/** @param {Piece} one @param {Piece} other */
function isComparable(one, other) {
  return one.value.length + other.value.length <= LONGEST_BY_WORD;
}
