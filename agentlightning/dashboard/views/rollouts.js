// A table of all rollouts, which the store filters, searches and sorts. The URL contains the filters, the search text,
// the sort order and the columns.

import { FINAL, cancelRollouts, exportRollouts, retryRollouts } from "../actions.js";
import { call } from "../api.js";
import { readOnly } from "../changes.js";
import { EmptyState, ResourcesLink, Reward, RolloutLink, Status, Time } from "../components/elements.js";
import { VirtualTable, usePages } from "../components/virtual_table.js";
import { count, duration, oneLine, plural, printable, statusLabel } from "../format.js";
import { useKeyBindings } from "../keyboard.js";
import { now } from "../query.js";
import { link, navigate, updateParams } from "../route.js";
import { html, signal, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../ui.js";

export const STATUSES = ["queuing", "requeuing", "preparing", "running", "succeeded", "failed", "cancelled"];
const MODES = ["train", "val", "test"];
const TEXTS_CUT_AT = 300;
const NEWEST_FIRST = "-start_time";
// The store sorts by creation time by default, so this order is requested by leaving out `sort_by`.
const CREATION_ORDER = "start_time";

/** The selected rollouts, by id. The selection is kept while the user opens a rollout and returns to the list. */
const selection = signal(/** @type {Map<string, any>} */ (new Map()));

/** @type {import("../components/virtual_table.js").Column[]} */
const COLUMNS = [
  { name: "select", title: "Select", render: (rollout) => html`<${SelectBox} rollout=${rollout} />` },
  { name: "status", title: "Status", sort: "status", render: ({ status }) => html`<${Status} status=${status} />` },
  { name: "rollout", title: "Rollout", sort: "rollout_id", render: () => null },
  { name: "input", title: "Input", render: ({ input }) => html`<span dir="auto">${oneLine(input, 160)}</span>` },
  { name: "reward", title: "Reward", sort: "reward", render: ({ reward }) => html`<${Reward} value=${reward} />` },
  { name: "mode", title: "Mode", sort: "mode", render: ({ mode }) => mode ?? html`<span class="dim">–</span>` },
  {
    name: "resources",
    title: "Resources",
    sort: "resources_id",
    render: (rollout) => html`<${ResourcesLink} id=${rollout.resources_id} version=${rollout.resources_version} />`,
  },
  {
    name: "attempts",
    title: "Attempts",
    render: ({ attempt }) => html`<span class="number">${attempt?.sequence_id ?? 0}</span>`,
  },
  {
    name: "created",
    title: "Created",
    sort: "start_time",
    render: ({ start_time }) => html`<${Time} at=${start_time} />`,
  },
  { name: "duration", title: "Duration", render: (rollout) => html`<${Duration} rollout=${rollout} />` },
  {
    name: "worker",
    title: "Worker",
    render: ({ attempt }) => html`<span class="id">${printable(attempt?.worker_id ?? "–")}</span>`,
  },
  {
    name: "reason",
    title: "Failure reason",
    render: ({ attempt }) => html`<span class="bad">${oneLine(attempt?.metadata?.reason ?? "", 160)}</span>`,
  },
];
const FIXED_COLUMNS = ["select", "rollout"];
const DEFAULT_COLUMNS = [
  "status",
  "rollout",
  "input",
  "reward",
  "mode",
  "resources",
  "attempts",
  "created",
  "duration",
  "reason",
];

/**
 * Return the arguments for `query_rollouts` that correspond to the parameters in the URL.
 * @param {Record<string, string>} params
 */
export function rolloutQuery(params) {
  const sort = params.sort || NEWEST_FIRST;
  const field = sort.replace(/^-/, "");
  const [resources_id, version] = (params.resources ?? "").split("@");
  return {
    ...(params.status && { status_in: params.status.split(",") }),
    ...(params.mode && { mode_in: params.mode.split(",") }),
    ...(params.q && { text_contains: params.q }),
    ...(resources_id && { resources_id }),
    ...(version && { resources_version: Number(version) }),
    ...(field !== CREATION_ORDER && { sort_by: field }),
    sort_order: sort.startsWith("-") ? "desc" : "asc",
    cut_at: TEXTS_CUT_AT,
  };
}

/** The URL parameters that identify the list from which a rollout was opened. @param {Record<string, string>} params */
export function listParams({ status, mode, q, resources, sort }) {
  return { status, mode, q, resources, sort };
}

/** @param {{params: Record<string, string>}} props */
export function Rollouts({ params }) {
  const query = rolloutQuery(params);
  const sort = params.sort || NEWEST_FIRST;
  // Use a signal, because a key may be pressed before the effect of the previous one has been rendered.
  const selected = useMemo(() => signal(-1), [JSON.stringify(query)]);
  const pages = usePages(
    (offset, limit) => call("query_rollouts", { ...query, offset, limit }),
    JSON.stringify(query),
    patchRows,
  );
  const open = (/** @type {any} */ rollout, /** @type {number} */ index) =>
    navigate(link("rollouts", rollout.rollout_id, { ...listParams(params), at: index }));
  useRowKeys(pages, selected, open);

  const chosenColumns = params.cols ? params.cols.split(",") : DEFAULT_COLUMNS;
  const columns = COLUMNS.filter(({ name }) => FIXED_COLUMNS.includes(name) || chosenColumns.includes(name)).map(
    (column) =>
      column.name !== "rollout"
        ? column
        : {
            ...column,
            render: (/** @type {any} */ rollout, /** @type {number} */ index) =>
              html`<${RolloutLink} id=${rollout.rollout_id} params=${{ ...listParams(params), at: index }} />`,
          },
  );
  return html`<section class="list-view" aria-labelledby="title">
    <div class="toolbar">
      <h1 id="title">Rollouts</h1>
      <span class="dim" role="status">${pages.total === null ? "" : plural(pages.total, isFiltered(params) ? "match" : "rollout")}</span>
      <${Search} value=${params.q ?? ""} />
      <${FilterMenu} name="status" title="Status" values=${STATUSES} chosen=${params.status ?? ""} label=${statusLabel} />
      <${FilterMenu} name="mode" title="Mode" values=${MODES} chosen=${params.mode ?? ""} label=${String} />
      <button aria-pressed=${sort === "failed_first"} onClick=${() => updateParams({ sort: sort === "failed_first" ? null : "failed_first" })}>
        Failed first
      </button>
      ${params.resources && html`<button class="chip" title="Remove this filter" onClick=${() => updateParams({ resources: null })}>${printable(params.resources)} ✕</button>`}
      <${ColumnMenu} chosen=${chosenColumns} />
      ${isFiltered(params) && html`<a href=${link("rollouts", null, { cols: params.cols })}>Clear filters</a>`}
    </div>
    <${SelectionActions} query=${query} total=${pages.total} />
    <${VirtualTable}
      label="List of rollouts"
      ...${{ columns, pages, selected: selected.value, sort, onOpen: open, rowKey: (/** @type {any} */ rollout) => rollout.rollout_id }}
      onSort=${(/** @type {string} */ field) => updateParams({ sort: nextSort(sort, field) })}
      empty=${html`<${NoRollouts} filtered=${isFiltered(params)} />`}
    />
  </section>`;
}

/** Apply a change event to the loaded rows. Returns true if it also concerns rollouts that are not loaded. */
function patchRows(/** @type {Map<number, any[]>} */ pages, /** @type {import("../changes.js").Change} */ change) {
  const notLoaded = new Set(Object.keys(change.rollouts));
  for (const items of pages.values()) {
    items.forEach((rollout, index) => {
      if (!notLoaded.delete(rollout.rollout_id)) return;
      items[index] = { ...rollout, ...change.rollouts[rollout.rollout_id] };
    });
  }
  return notLoaded.size > 0;
}

/** @param {Record<string, string>} params */
function isFiltered({ status, mode, q, resources }) {
  return Boolean(status || mode || q || resources);
}

/**
 * Return the sort order after a click on a column. The first click sorts in ascending order, or in descending order for
 * times and rewards. The next click reverses the order.
 */
function nextSort(/** @type {string} */ sort, /** @type {string} */ field) {
  const descendingFirst = ["start_time", "end_time", "reward"].includes(field);
  if (sort === field) return `-${field}`;
  if (sort === `-${field}`) return field;
  return descendingFirst ? `-${field}` : field;
}

/** @param {ReturnType<typeof usePages>} pages @param {import("../vendor/signals.js").Signal<number>} selected @param {(rollout: any, index: number) => void} open */
function useRowKeys(pages, selected, open) {
  // True from the time Enter is pressed until the selected row has been loaded.
  const opening = useRef(false);
  const openSelected = () => {
    const rollout = pages.row(selected.value);
    opening.current = !rollout && selected.value >= 0;
    if (rollout) open(rollout, selected.value);
  };
  useLayoutEffect(() => {
    if (opening.current) openSelected();
  });
  const step = (/** @type {number} */ by) => {
    opening.current = false;
    selected.value = Math.max(0, Math.min((pages.total ?? Infinity) - 1, selected.value + by));
  };
  useKeyBindings({
    j: () => step(1),
    k: () => step(-1),
    Enter: openSelected,
    "/": () => /** @type {HTMLElement | null} */ (document.querySelector("#search"))?.focus(),
    Escape: () => (selected.value = -1),
  });
}

const SEARCH_DELAY_MS = 200;

/** @param {{value: string}} props */
function Search({ value }) {
  const timer = useRef(0);
  // The entered text until it is copied to the URL. Without it, rendering the page would reset the field.
  const [draft, setDraft] = useState(/** @type {string | null} */ (null));
  const search = (/** @type {any} */ event) => {
    const q = event.target.value;
    setDraft(q);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      updateParams({ q });
      setDraft(null);
    }, SEARCH_DELAY_MS);
  };
  useEffect(() => () => clearTimeout(timer.current), []);
  return html`<input id="search" type="search" placeholder="Search ids and inputs  /" aria-label="Search ids and inputs" value=${draft ?? value} onInput=${search} />`;
}

/** @param {{name: string, title: string, values: string[], chosen: string, label: (value: string) => string}} props */
function FilterMenu({ name, title, values, chosen, label }) {
  const active = new Set(chosen ? chosen.split(",") : []);
  const toggle = (/** @type {string} */ value) => {
    if (!active.delete(value)) active.add(value);
    updateParams({ [name]: values.filter((one) => active.has(one)).join(",") });
  };
  return html`<details class="menu-button">
    <summary>${active.size ? `${title}: ${[...active].map(label).join(", ")}` : title}</summary>
    <div class="menu" role="group" aria-label=${title}>
      ${values.map(
        (value) =>
          html`<label><input type="checkbox" checked=${active.has(value)} onChange=${() => toggle(value)} /> ${label(value)}</label>`,
      )}
    </div>
  </details>`;
}

/** @param {{chosen: string[]}} props */
function ColumnMenu({ chosen }) {
  const toggle = (/** @type {string} */ name) => {
    const next = chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name];
    updateParams({ cols: next.join(",") });
  };
  return html`<details class="menu-button">
    <summary>Columns</summary>
    <div class="menu" role="group" aria-label="Columns">
      ${COLUMNS.filter(({ name }) => !FIXED_COLUMNS.includes(name)).map(
        ({ name, title }) =>
          html`<label><input type="checkbox" checked=${chosen.includes(name)} onChange=${() => toggle(name)} /> ${title}</label>`,
      )}
    </div>
  </details>`;
}

/** @param {{rollout: any}} props */
function SelectBox({ rollout }) {
  const toggle = () => {
    const next = new Map(selection.value);
    if (!next.delete(rollout.rollout_id)) next.set(rollout.rollout_id, rollout);
    selection.value = next;
  };
  return html`<input
    type="checkbox"
    aria-label=${`Select ${rollout.rollout_id}`}
    checked=${selection.value.has(rollout.rollout_id)}
    onChange=${toggle}
  />`;
}

/**
 * Actions on the selected rollouts, or the export of the whole list if none are selected.
 * @param {{query: any, total: number | null}} props
 */
function SelectionActions({ query, total }) {
  const ids = [...selection.value.keys()];
  const [progress, setProgress] = useState("");
  const finish = async (/** @type {Promise<any>} */ work) => {
    await work;
    setProgress("");
    selection.value = new Map();
  };
  if (!ids.length) {
    return html`<div class="actions dim">
      ${progress || "Select rows to retry, cancel or export them."}
      ${Boolean(total) && html`<button class="small" onClick=${() => finish(exportRollouts(query, setProgress))}>Export all ${count(total)} as JSONL</button>`}
    </div>`;
  }
  return html`<div class="actions">
    <span>${count(ids.length)} selected ${progress}</span>
    ${!readOnly.value && html`<button class="small" onClick=${() => finish(retryRollouts(ids))}>Retry</button>`}
    ${!readOnly.value && html`<button class="small" onClick=${() => finish(cancelRollouts(ids))}>Cancel</button>`}
    <button class="small" onClick=${() => finish(exportRollouts({ rollout_id_in: ids }, setProgress))}>Export as JSONL</button>
    <button class="small quiet" onClick=${() => (selection.value = new Map())}>Clear selection</button>
  </div>`;
}

/** @param {{rollout: any}} props */
function Duration({ rollout }) {
  const { start_time, end_time, status } = rollout;
  const seconds = FINAL.has(status) ? end_time - start_time : now.value - start_time;
  return html`<span class="number ${FINAL.has(status) ? "" : "dim"}">${duration(seconds)}</span>`;
}

/** @param {{filtered: boolean}} props */
function NoRollouts({ filtered }) {
  if (filtered) return html`<${EmptyState}>No rollouts match the filters.<//>`;
  return html`<${EmptyState} command=${'await store.enqueue_rollout(input={"question": "…"}, mode="train")'}>
    No rollouts yet. Enqueue one, or run <code>agl demo</code>, which creates 120:
  <//>`;
}
