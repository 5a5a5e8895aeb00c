// A long table of which only what can be seen is in the page: rows come from the store page by page as one scrolls.

import { followChanges, saidOf } from "../data.js";
import { onChange } from "../live.js";
import { html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../ui.js";
import { count, visible } from "../words.js";

export const ROW = 34;
const PAGE = 50;
const MORE = 12;
// Browsers cannot scroll further than some 33 million pixels.
const MOST_ROWS = 900_000;

/** @typedef {{name: string, title: string, sort?: string, wide?: boolean, show: (item: any, index: number) => any}} Column */

/**
 * Pages of a list as they are fetched, patched by what the store tells of.
 * @param {(offset: number, limit: number) => Promise<{items: any[], total: number}>} fetchPage
 * @param {string} query what identifies the list; another query is another list
 * @param {(pages: Map<number, any[]>, change: import("../live.js").Change) => boolean} patch
 *   changes rows in place; true when the list itself may have changed
 */
export function usePages(fetchPage, query, patch) {
  const [, redraw] = useState(0);
  const [error, setError] = useState(/** @type {string | null} */ (null));
  const state = useMemo(
    () => ({
      pages: new Map(),
      asked: /** @type {Map<number, Promise<void>>} */ (new Map()),
      seen: [0, 0],
      total: /** @type {number | null} */ (null),
    }),
    [query],
  );
  const current = useRef(state);
  current.current = state;
  const fetcher = useRef(fetchPage);
  fetcher.current = fetchPage;

  const fetchInto = useCallback(async (/** @type {typeof state} */ mine, /** @type {number} */ page) => {
    try {
      const { items, total } = await fetcher.current(page * PAGE, PAGE);
      mine.pages.set(page, items);
      mine.total = total;
      setError(null);
    } catch (problem) {
      setError(saidOf(problem));
    } finally {
      mine.asked.delete(page);
      if (mine === current.current) redraw((n) => n + 1);
    }
  }, []);
  const load = useCallback((/** @type {number} */ page) => {
    const loading = fetchInto(current.current, page);
    current.current.asked.set(page, loading);
    return loading;
  }, []);

  /** Makes sure that rows `first` to `last` are here, or on their way. */
  const need = useCallback((/** @type {number} */ first, /** @type {number} */ last) => {
    const mine = current.current;
    mine.seen = [Math.floor(first / PAGE), Math.floor(Math.max(first, last) / PAGE)];
    for (let page = mine.seen[0]; page <= mine.seen[1]; page++) {
      if (!mine.pages.has(page) && !mine.asked.has(page)) load(page);
    }
  }, []);

  const reload = useCallback(async () => {
    const mine = current.current;
    await Promise.all(mine.asked.values());
    for (const page of [...mine.pages.keys()]) {
      if (page < mine.seen[0] || page > mine.seen[1]) mine.pages.delete(page);
    }
    for (let page = mine.seen[0]; page <= mine.seen[1]; page++) await load(page);
  }, []);

  useEffect(() => need(0, 0), [state]);
  useEffect(
    () =>
      onChange((change) => {
        patch(current.current.pages, change);
        redraw((n) => n + 1);
      }),
    [],
  );
  useEffect(() => followChanges((change) => patch(current.current.pages, change), reload), []);
  return {
    total: state.total,
    error,
    need,
    reload,
    row: (/** @type {number} */ index) => state.pages.get(Math.floor(index / PAGE))?.[index % PAGE],
  };
}

/**
 * @param {{
 *   label: string, columns: Column[], pages: ReturnType<typeof usePages>, selected: number,
 *   sort: string, onSort: (field: string) => void, onOpen: (item: any, index: number) => void,
 *   rowKey: (item: any) => string, empty: any
 * }} props
 */
export function Rows({ label, columns, pages, selected, sort, onSort, onOpen, rowKey, empty }) {
  const scroller = useRef(/** @type {HTMLElement | null} */ (null));
  const [[top, height], setSeen] = useState([0, 800]);
  const look = useCallback(() => {
    const element = scroller.current;
    if (element) setSeen([element.scrollTop, element.clientHeight]);
  }, []);
  useLayoutEffect(() => {
    look();
    const observer = new ResizeObserver(look);
    if (scroller.current) observer.observe(scroller.current);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => scrollTo(scroller.current, selected), [selected]);

  const total = Math.min(pages.total ?? 0, MOST_ROWS);
  const first = Math.max(0, Math.min(Math.floor(top / ROW) - MORE, total - 1));
  const last = Math.min(total, Math.ceil((top + height) / ROW) + MORE);
  useEffect(() => {
    if (total) pages.need(first, last - 1);
  });

  const indexes = Array.from({ length: Math.max(0, last - first) }, (_, index) => first + index);
  return html`<div class="scroller" ref=${scroller} onScroll=${look} tabindex="0" role="region" aria-label=${label}>
    <table class="rows" aria-rowcount=${total + 1}>
      <thead>
        <tr aria-rowindex="1">
          ${columns.map((column) => html`<${Heading} key=${column.name} column=${column} sort=${sort} onSort=${onSort} />`)}
        </tr>
      </thead>
      <tbody>
        ${first > 0 && html`<${Space} key="above" height=${first * ROW} />`}
        ${indexes.map((index) => {
          const item = pages.row(index);
          return html`<${Row}
            key=${item ? rowKey(item) : index}
            ...${{ item, index, columns, onOpen, current: index === selected }}
          />`;
        })}
        ${last < total && html`<${Space} key="below" height=${(total - last) * ROW} />`}
      </tbody>
    </table>
    ${pages.error && html`<p class="problem" role="alert">${visible(pages.error)}</p>`}
    ${pages.total === 0 && !pages.error && empty}
    ${pages.total === null && !pages.error && html`<p class="waiting" aria-busy="true">Fetching rows…</p>`}
    ${
      (pages.total ?? 0) > MOST_ROWS &&
      html`<p class="dim">Only the first ${count(MOST_ROWS)} can be scrolled through; filter to see others.</p>`
    }
  </div>`;
}

/** @param {{column: Column, sort: string, onSort: (field: string) => void}} props */
function Heading({ column, sort, onSort }) {
  const field = sort.replace(/^-/, "");
  const direction = sort.startsWith("-") ? "descending" : "ascending";
  const sorted = column.sort !== undefined && column.sort === field;
  const arrow = sorted ? (direction === "ascending" ? " ↑" : " ↓") : "";
  return html`<th scope="col" class="col-${column.name}" aria-sort=${sorted ? direction : undefined}>
    ${
      column.sort
        ? html`<button class="heading" onClick=${() => onSort(column.sort ?? "")}>${column.title}${arrow}</button>`
        : html`<span class=${column.name === "tick" ? "unseen" : ""}>${column.title}</span>`
    }
  </th>`;
}

/** @param {{item: any, index: number, columns: Column[], current: boolean, onOpen: (item: any, index: number) => void}} props */
function Row({ item, index, columns, current, onOpen }) {
  if (!item) {
    return html`<tr aria-rowindex=${index + 2} class="coming"><td>…</td></tr>`;
  }
  const open = (/** @type {MouseEvent} */ event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (!target.closest("a, button, input")) onOpen(item, index);
  };
  return html`<tr aria-rowindex=${index + 2} class=${current ? "current" : ""} onClick=${open}>
    ${columns.map((column) => html`<td key=${column.name} class="col-${column.name}">${column.show(item, index)}</td>`)}
  </tr>`;
}

/** @param {{height: number}} props */
function Space({ height }) {
  return html`<tr aria-hidden="true" class="space"><td style=${{ height: `${height}px` }}></td></tr>`;
}

/** @param {HTMLElement | null} element @param {number} index */
function scrollTo(element, index) {
  if (!element || index < 0) return;
  const top = index * ROW;
  const inside = element.clientHeight - 2 * ROW;
  if (top < element.scrollTop) element.scrollTop = top;
  else if (top > element.scrollTop + inside) element.scrollTop = top - inside;
}
