// The trace as a tree, with a waterfall beside it: what was within what, when, and for how long.

import { html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../ui.js";
import { duration, plural, score, visible } from "../words.js";
import { isError, kindOf, rewardsOf, rowsOf, secondsOf, titleOf, treesOf } from "./spans.js";

const ROW = 28;
const MORE = 10;

/**
 * @param {{spans: any[], chosen: string | null, onChoose: (id: string) => void, closed: Set<string>, onToggle: (id: string) => void}} props
 */
export function Tree({ spans, chosen, onChoose, closed, onToggle }) {
  const roots = useMemo(() => treesOf(spans), [spans]);
  const rows = useMemo(() => rowsOf(roots, closed), [roots, closed]);
  const [from, to] = useMemo(() => extent(spans), [spans]);
  const scroller = useRef(/** @type {HTMLElement | null} */ (null));
  const [[top, height], setSeen] = useState([0, 600]);
  const look = useCallback(() => {
    const element = scroller.current;
    if (element) setSeen([element.scrollTop, element.clientHeight]);
  }, []);
  useLayoutEffect(look, []);
  useEffect(
    () =>
      showRow(
        scroller.current,
        rows.findIndex(({ span }) => span.span_id === chosen),
      ),
    [chosen],
  );

  const first = Math.max(0, Math.floor(top / ROW) - MORE);
  const last = Math.min(rows.length, Math.ceil((top + height) / ROW) + MORE);
  return html`<div class="tree-scale dim" aria-hidden="true"><span>${plural(rows.length, "span")}</span><span class="ends"><span>0</span><span>${duration(to - from)}</span></span><span>took</span></div>
  <div class="tree" ref=${scroller} onScroll=${look} role="tree" aria-label="Spans" tabindex="0">
    <div style=${{ height: `${first * ROW}px` }}></div>
    ${rows.slice(first, last).map(
      (node) =>
        html`<${SpanRow}
          key=${node.span.span_id}
          ...${{ node, from, to, onChoose, onToggle }}
          chosen=${node.span.span_id === chosen}
          open=${!closed.has(node.span.span_id)}
        />`,
    )}
    <div style=${{ height: `${(rows.length - last) * ROW}px` }}></div>
  </div>`;
}

/** @param {{node: import("./spans.js").Node, from: number, to: number, chosen: boolean, open: boolean, onChoose: (id: string) => void, onToggle: (id: string) => void}} props */
function SpanRow({ node: { span, depth, children }, from, to, chosen, open, onChoose, onToggle }) {
  const id = span.span_id;
  const toggle = (/** @type {Event} */ event) => {
    event.stopPropagation();
    onToggle(id);
  };
  const left = (100 * (span.start_time - from)) / (to - from);
  const width = (100 * (secondsOf(span) ?? 0)) / (to - from);
  const rewards = rewardsOf(span);
  return html`<div
    class="span ${kindOf(span)} ${isError(span) ? "bad" : ""}"
    role="treeitem"
    aria-selected=${chosen}
    aria-level=${depth + 1}
    aria-expanded=${children.length ? open : undefined}
    onClick=${() => onChoose(id)}
  >
    <span class="name" style=${{ paddingLeft: `${Math.min(depth, 12) * 14}px` }}>
      <span class="fold" aria-hidden="true" onClick=${children.length ? toggle : undefined}>
        ${children.length ? (open ? "▾" : "▸") : ""}
      </span>
      <span class="mark" aria-hidden="true"></span> ${visible(titleOf(span))}
      ${rewards.length > 0 && html`<span class="number reward"> ${score(rewards[0].value)}</span>`}
    </span>
    <span class="bar" aria-hidden="true"><span style=${{ left: `${left}%`, width: `max(2px, ${width}%)` }}></span></span>
    <span class="number dim">${duration(secondsOf(span))}</span>
  </div>`;
}

/** @param {any[]} spans */
function extent(spans) {
  let from = Infinity;
  let to = -Infinity;
  for (const { start_time, end_time } of spans) {
    from = Math.min(from, start_time ?? Infinity);
    to = Math.max(to, end_time ?? start_time ?? -Infinity);
  }
  return [from, Math.max(to, from + 0.001)];
}

/** @param {HTMLElement | null} element @param {number} index */
function showRow(element, index) {
  if (!element || index < 0) return;
  const top = index * ROW;
  if (top < element.scrollTop || top > element.scrollTop + element.clientHeight - ROW) {
    element.scrollTop = top - element.clientHeight / 2;
  }
}
