// A long table that renders only its visible rows and loads them page by page as the user scrolls.

import { onChange } from "../changes.js";
import { count, printable } from "../format.js";
import { errorMessage, reloadOnChange } from "../query.js";
import { html, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../ui.js";

const ROW_HEIGHT = 34;
const PAGE_SIZE = 50;
const OVERSCAN = 12;
// Browsers cannot scroll further than about 33 million pixels.
const MAX_ROWS = 900_000;

/** @typedef {{name: string, title: string, sort?: string, render: (item: any, index: number) => any}} Column */

/**
 * Load the pages of a list on demand, and update them when the store reports changes.
 * @param {(offset: number, limit: number) => Promise<{items: any[], total: number}>} fetchPage
 * @param {string} query identifies the list; a different query starts a new list
 * @param {(pages: Map<number, any[]>, change: import("../changes.js").Change) => boolean} patch
 *   updates rows in place; returns true if the list itself may have changed
 */
export function usePages(fetchPage, query, patch) {
  const [, redraw] = useState(0);
  const [error, setError] = useState(/** @type {string | null} */ (null));
  const state = useMemo(
    () => ({
      pages: new Map(),
      loading: /** @type {Map<number, Promise<void>>} */ (new Map()),
      visible: [0, 0],
      total: /** @type {number | null} */ (null),
    }),
    [query],
  );
  const current = useRef(state);
  current.current = state;
  const fetcher = useRef(fetchPage);
  fetcher.current = fetchPage;

  const fetchInto = useCallback(async (/** @type {typeof state} */ list, /** @type {number} */ page) => {
    try {
      const { items, total } = await fetcher.current(page * PAGE_SIZE, PAGE_SIZE);
      list.pages.set(page, items);
      list.total = total;
      setError(null);
    } catch (problem) {
      setError(errorMessage(problem));
    } finally {
      list.loading.delete(page);
      if (list === current.current) redraw((n) => n + 1);
    }
  }, []);
  const load = useCallback((/** @type {number} */ page) => {
    const loading = fetchInto(current.current, page);
    current.current.loading.set(page, loading);
    return loading;
  }, []);

  /** Load rows `first` to `last`, except those that are already loaded or loading. */
  const ensureLoaded = useCallback((/** @type {number} */ first, /** @type {number} */ last) => {
    const list = current.current;
    list.visible = [Math.floor(first / PAGE_SIZE), Math.floor(Math.max(first, last) / PAGE_SIZE)];
    for (let page = list.visible[0]; page <= list.visible[1]; page++) {
      if (!list.pages.has(page) && !list.loading.has(page)) load(page);
    }
  }, []);

  const reload = useCallback(async () => {
    const list = current.current;
    await Promise.all(list.loading.values());
    for (const page of [...list.pages.keys()]) {
      if (page < list.visible[0] || page > list.visible[1]) list.pages.delete(page);
    }
    for (let page = list.visible[0]; page <= list.visible[1]; page++) await load(page);
  }, []);

  useEffect(() => ensureLoaded(0, 0), [state]);
  useEffect(
    () =>
      onChange((change) => {
        patch(current.current.pages, change);
        redraw((n) => n + 1);
      }),
    [],
  );
  useEffect(() => reloadOnChange((change) => patch(current.current.pages, change), reload), []);
  return {
    total: state.total,
    error,
    ensureLoaded,
    row: (/** @type {number} */ index) => state.pages.get(Math.floor(index / PAGE_SIZE))?.[index % PAGE_SIZE],
  };
}

/**
 * @param {{
 *   label: string, columns: Column[], pages: ReturnType<typeof usePages>, selected: number,
 *   sort: string, onSort: (field: string) => void, onOpen: (item: any, index: number) => void,
 *   rowKey: (item: any) => string, empty: any
 * }} props
 */
export function VirtualTable({ label, columns, pages, selected, sort, onSort, onOpen, rowKey, empty }) {
  const scroller = useRef(/** @type {HTMLElement | null} */ (null));
  const [[top, height], setViewport] = useState([0, 800]);
  const measure = useCallback(() => {
    const element = scroller.current;
    if (element) setViewport([element.scrollTop, element.clientHeight]);
  }, []);
  useLayoutEffect(() => {
    measure();
    const observer = new ResizeObserver(measure);
    if (scroller.current) observer.observe(scroller.current);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => scrollToRow(scroller.current, selected), [selected]);

  const total = Math.min(pages.total ?? 0, MAX_ROWS);
  const first = Math.max(0, Math.min(Math.floor(top / ROW_HEIGHT) - OVERSCAN, total - 1));
  const last = Math.min(total, Math.ceil((top + height) / ROW_HEIGHT) + OVERSCAN);
  useEffect(() => {
    if (total) pages.ensureLoaded(first, last - 1);
  });

  const indexes = Array.from({ length: Math.max(0, last - first) }, (_, index) => first + index);
  return html`<div class="scroller" ref=${scroller} onScroll=${measure} tabindex="0" role="region" aria-label=${label}>
    <table class="rows" aria-rowcount=${total + 1}>
      <thead>
        <tr aria-rowindex="1">
          ${columns.map((column) => html`<${ColumnHeader} key=${column.name} column=${column} sort=${sort} onSort=${onSort} />`)}
        </tr>
      </thead>
      <tbody>
        ${first > 0 && html`<${Spacer} key="above" height=${first * ROW_HEIGHT} />`}
        ${indexes.map((index) => {
          const item = pages.row(index);
          return html`<${Row}
            key=${item ? rowKey(item) : index}
            ...${{ item, index, columns, onOpen, current: index === selected }}
          />`;
        })}
        ${last < total && html`<${Spacer} key="below" height=${(total - last) * ROW_HEIGHT} />`}
      </tbody>
    </table>
    ${pages.error && html`<p class="error-message" role="alert">${printable(pages.error)}</p>`}
    ${pages.total === 0 && !pages.error && empty}
    ${pages.total === null && !pages.error && html`<p class="loading" aria-busy="true">Loading rows…</p>`}
    ${
      (pages.total ?? 0) > MAX_ROWS &&
      html`<p class="dim">Only the first ${count(MAX_ROWS)} rows are shown; use filters to see others.</p>`
    }
  </div>`;
}

/** @param {{column: Column, sort: string, onSort: (field: string) => void}} props */
function ColumnHeader({ column, sort, onSort }) {
  const field = sort.replace(/^-/, "");
  const direction = sort.startsWith("-") ? "descending" : "ascending";
  const sorted = column.sort !== undefined && column.sort === field;
  const arrow = sorted ? (direction === "ascending" ? " ↑" : " ↓") : "";
  return html`<th scope="col" class="col-${column.name}" aria-sort=${sorted ? direction : undefined}>
    ${
      column.sort
        ? html`<button class="heading" onClick=${() => onSort(column.sort ?? "")}>${column.title}${arrow}</button>`
        : html`<span class=${column.name === "select" ? "visually-hidden" : ""}>${column.title}</span>`
    }
  </th>`;
}

/** @param {{item: any, index: number, columns: Column[], current: boolean, onOpen: (item: any, index: number) => void}} props */
function Row({ item, index, columns, current, onOpen }) {
  if (!item) {
    return html`<tr aria-rowindex=${index + 2}><td>…</td></tr>`;
  }
  const open = (/** @type {MouseEvent} */ event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (!target.closest("a, button, input")) onOpen(item, index);
  };
  return html`<tr aria-rowindex=${index + 2} class=${current ? "current" : ""} onClick=${open}>
    ${columns.map((column) => html`<td key=${column.name} class="col-${column.name}">${column.render(item, index)}</td>`)}
  </tr>`;
}

/** @param {{height: number}} props */
function Spacer({ height }) {
  return html`<tr aria-hidden="true" class="spacer-row"><td style=${{ height: `${height}px` }}></td></tr>`;
}

/** @param {HTMLElement | null} element @param {number} index */
function scrollToRow(element, index) {
  if (!element || index < 0) return;
  const top = index * ROW_HEIGHT;
  const inside = element.clientHeight - 2 * ROW_HEIGHT;
  if (top < element.scrollTop) element.scrollTop = top;
  else if (top > element.scrollTop + inside) element.scrollTop = top - inside;
}
