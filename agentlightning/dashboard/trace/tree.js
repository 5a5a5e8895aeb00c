// The trace as a tree with a waterfall chart.

import { html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../ui.js";
import { duration, plural, score, printable } from "../format.js";
import { isError, spanKind, spanRewards, flattenTrees, spanSeconds, spanTitle, buildTrees } from "./spans.js";

const ROW_HEIGHT = 28;
const OVERSCAN = 10;

/**
 * @param {{spans: any[], selected: string | null, onSelect: (id: string) => void, collapsed: Set<string>, onToggle: (id: string) => void}} props
 */
export function SpanTree({ spans, selected, onSelect, collapsed, onToggle }) {
  const roots = useMemo(() => buildTrees(spans), [spans]);
  const rows = useMemo(() => flattenTrees(roots, collapsed), [roots, collapsed]);
  const [from, to] = useMemo(() => timeRange(spans), [spans]);
  const scroller = useRef(/** @type {HTMLElement | null} */ (null));
  const [[top, height], setViewport] = useState([0, 600]);
  const measure = useCallback(() => {
    const element = scroller.current;
    if (element) setViewport([element.scrollTop, element.clientHeight]);
  }, []);
  useLayoutEffect(measure, []);
  useEffect(
    () =>
      scrollToRow(
        scroller.current,
        rows.findIndex(({ span }) => span.span_id === selected),
      ),
    [selected],
  );

  const first = Math.max(0, Math.floor(top / ROW_HEIGHT) - OVERSCAN);
  const last = Math.min(rows.length, Math.ceil((top + height) / ROW_HEIGHT) + OVERSCAN);
  return html`<div class="tree-scale dim" aria-hidden="true"><span>${plural(rows.length, "span")}</span><span class="ends"><span>0</span><span>${duration(to - from)}</span></span><span>Duration</span></div>
  <div class="tree" ref=${scroller} onScroll=${measure} role="tree" aria-label="Spans" tabindex="0">
    <div style=${{ height: `${first * ROW_HEIGHT}px` }}></div>
    ${rows.slice(first, last).map(
      (node) =>
        html`<${SpanRow}
          key=${node.span.span_id}
          ...${{ node, from, to, onSelect, onToggle }}
          selected=${node.span.span_id === selected}
          open=${!collapsed.has(node.span.span_id)}
        />`,
    )}
    <div style=${{ height: `${(rows.length - last) * ROW_HEIGHT}px` }}></div>
  </div>`;
}

/** @param {{node: import("./spans.js").SpanNode, from: number, to: number, selected: boolean, open: boolean, onSelect: (id: string) => void, onToggle: (id: string) => void}} props */
function SpanRow({ node: { span, depth, children }, from, to, selected, open, onSelect, onToggle }) {
  const id = span.span_id;
  const toggle = (/** @type {Event} */ event) => {
    event.stopPropagation();
    onToggle(id);
  };
  const left = (100 * (span.start_time - from)) / (to - from);
  const width = (100 * (spanSeconds(span) ?? 0)) / (to - from);
  const rewards = spanRewards(span);
  return html`<div
    class="span ${spanKind(span)} ${isError(span) ? "bad" : ""}"
    role="treeitem"
    aria-selected=${selected}
    aria-level=${depth + 1}
    aria-expanded=${children.length ? open : undefined}
    onClick=${() => onSelect(id)}
  >
    <span class="name" style=${{ paddingLeft: `${Math.min(depth, 12) * 14}px` }}>
      <span class="toggle" aria-hidden="true" onClick=${children.length ? toggle : undefined}>
        ${children.length ? (open ? "▾" : "▸") : ""}
      </span>
      <span class="mark" aria-hidden="true"></span> ${printable(spanTitle(span))}
      ${rewards.length > 0 && html`<span class="number reward"> ${score(rewards[0].value)}</span>`}
    </span>
    <span class="bar" aria-hidden="true"><span style=${{ left: `${left}%`, width: `max(2px, ${width}%)` }}></span></span>
    <span class="number dim">${duration(spanSeconds(span))}</span>
  </div>`;
}

/** @param {any[]} spans */
function timeRange(spans) {
  let from = Infinity;
  let to = -Infinity;
  for (const { start_time, end_time } of spans) {
    from = Math.min(from, start_time ?? Infinity);
    to = Math.max(to, end_time ?? start_time ?? -Infinity);
  }
  return [from, Math.max(to, from + 0.001)];
}

/** @param {HTMLElement | null} element @param {number} index */
function scrollToRow(element, index) {
  if (!element || index < 0) return;
  const top = index * ROW_HEIGHT;
  if (top < element.scrollTop || top > element.scrollTop + element.clientHeight - ROW_HEIGHT) {
    element.scrollTop = top - element.clientHeight / 2;
  }
}
