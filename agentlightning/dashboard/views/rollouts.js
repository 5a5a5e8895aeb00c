// All rollouts as a table: filtered, sorted and searched by the store, with all of that in the URL.

import { cancelled, exported, retried, FINAL } from "../actions.js";
import { call } from "../api.js";
import { now } from "../data.js";
import { useKeys } from "../keys.js";
import { unchangeable } from "../live.js";
import { Empty, Reward, ResourcesLink, RolloutLink, Status, Time } from "../parts/small.js";
import { Rows, usePages } from "../parts/rows.js";
import { change, go, link } from "../route.js";
import { html, signal, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../ui.js";
import { brief, count, duration, visible } from "../words.js";

export const STATUSES = ["queuing", "requeuing", "preparing", "running", "succeeded", "failed", "cancelled"];
const MODES = ["train", "val", "test"];
const LONGEST_SHOWN = 300;
const NEWEST_FIRST = "-start_time";
// The order in which rollouts were made is the store's own; it has no name as a field.
const ORDER_MADE = "start_time";

/** The rows that are ticked, by rollout id; kept while one looks at a rollout and comes back. */
const ticked = signal(/** @type {Map<string, any>} */ (new Map()));

/** @type {import("../parts/rows.js").Column[]} */
const COLUMNS = [
  { name: "tick", title: "Select", show: (rollout) => html`<${Tick} rollout=${rollout} />` },
  { name: "status", title: "Status", sort: "status", show: ({ status }) => html`<${Status} status=${status} />` },
  { name: "rollout", title: "Rollout", sort: "rollout_id", show: () => null },
  { name: "input", title: "Input", show: ({ input }) => html`<span dir="auto">${brief(input, 160)}</span>` },
  { name: "reward", title: "Reward", sort: "reward", show: ({ reward }) => html`<${Reward} value=${reward} />` },
  { name: "mode", title: "Mode", sort: "mode", show: ({ mode }) => mode ?? html`<span class="dim">–</span>` },
  {
    name: "resources",
    title: "Resources",
    sort: "resources_id",
    show: (rollout) => html`<${ResourcesLink} id=${rollout.resources_id} version=${rollout.resources_version} />`,
  },
  {
    name: "attempts",
    title: "Attempt",
    show: ({ attempt }) => html`<span class="number">${attempt?.sequence_id ?? 0}</span>`,
  },
  { name: "started", title: "Made", sort: "start_time", show: ({ start_time }) => html`<${Time} at=${start_time} />` },
  { name: "took", title: "Took", show: (rollout) => html`<${Took} rollout=${rollout} />` },
  {
    name: "worker",
    title: "Worker",
    show: ({ attempt }) => html`<span class="id">${visible(attempt?.worker_id ?? "–")}</span>`,
  },
  {
    name: "reason",
    title: "Why it ended",
    show: ({ attempt }) => html`<span class="bad">${brief(attempt?.metadata?.reason ?? "", 160)}</span>`,
  },
];
const SHOWN_AT_FIRST = [
  "status",
  "rollout",
  "input",
  "reward",
  "mode",
  "resources",
  "attempts",
  "started",
  "took",
  "reason",
];

/**
 * What the store is asked for, from the parameters of the URL.
 * @param {Record<string, string>} params
 */
export function queryOf(params) {
  const sort = params.sort || NEWEST_FIRST;
  const field = sort.replace(/^-/, "");
  const [resources_id, version] = (params.resources ?? "").split("@");
  return {
    ...(params.status && { status_in: params.status.split(",") }),
    ...(params.mode && { mode_in: params.mode.split(",") }),
    ...(params.q && { text_contains: params.q }),
    ...(resources_id && { resources_id }),
    ...(version && { resources_version: Number(version) }),
    ...(field !== ORDER_MADE && { sort_by: field }),
    sort_order: sort.startsWith("-") ? "desc" : "asc",
    cut_at: LONGEST_SHOWN,
  };
}

/** The parameters that say which list a rollout was opened from. @param {Record<string, string>} params */
export function listOf({ status, mode, q, resources, sort }) {
  return { status, mode, q, resources, sort };
}

/** @param {{params: Record<string, string>}} props */
export function Rollouts({ params }) {
  const query = queryOf(params);
  const sort = params.sort || NEWEST_FIRST;
  // A signal, because a key may be pressed before the one before it is drawn.
  const selected = useMemo(() => signal(-1), [JSON.stringify(query)]);
  const pages = usePages(
    (offset, limit) => call("query_rollouts", { ...query, offset, limit }),
    JSON.stringify(query),
    patch,
  );
  const open = (/** @type {any} */ rollout, /** @type {number} */ index) =>
    go(link("rollouts", rollout.rollout_id, { ...listOf(params), at: index }));
  useRowKeys(pages, selected, open);

  const cut = params.cols ? params.cols.split(",") : SHOWN_AT_FIRST;
  const columns = COLUMNS.filter(({ name }) => name === "tick" || name === "rollout" || cut.includes(name)).map(
    (column) =>
      column.name !== "rollout"
        ? column
        : {
            ...column,
            show: (/** @type {any} */ rollout, /** @type {number} */ index) =>
              html`<${RolloutLink} id=${rollout.rollout_id} params=${{ ...listOf(params), at: index }} />`,
          },
  );
  return html`<section class="list-view" aria-labelledby="title">
    <div class="toolbar">
      <h1 id="title">Rollouts</h1>
      <span class="dim" role="status">${pages.total === null ? "" : `${count(pages.total)} ${isFiltered(params) ? "fit" : "in all"}`}</span>
      <${Search} value=${params.q ?? ""} />
      <${Choices} name="status" values=${STATUSES} chosen=${params.status ?? ""} />
      <${Choices} name="mode" values=${MODES} chosen=${params.mode ?? ""} />
      <button aria-pressed=${sort === "failed_first"} onClick=${() => change({ sort: sort === "failed_first" ? null : "failed_first" })}>
        Failed first
      </button>
      ${params.resources && html`<button class="chip" onClick=${() => change({ resources: null })}>${visible(params.resources)} ✕</button>`}
      <${ColumnChoice} chosen=${cut} />
      ${isFiltered(params) && html`<a href=${link("rollouts", null, { cols: params.cols })}>Clear filters</a>`}
    </div>
    <${Ticked} query=${query} total=${pages.total} />
    <${Rows}
      label="List of rollouts"
      ...${{ columns, pages, selected: selected.value, sort, onOpen: open, rowKey: (/** @type {any} */ rollout) => rollout.rollout_id }}
      onSort=${(/** @type {string} */ field) => change({ sort: nextSort(sort, field) })}
      empty=${html`<${NoRollouts} filtered=${isFiltered(params)} />`}
    />
  </section>`;
}

/** What the store tells of rollouts that are shown, put into their rows. True when others have changed too. */
function patch(/** @type {Map<number, any[]>} */ pages, /** @type {import("../live.js").Change} */ news) {
  const unseen = new Set(Object.keys(news.rollouts));
  for (const items of pages.values()) {
    items.forEach((rollout, index) => {
      if (!unseen.delete(rollout.rollout_id)) return;
      items[index] = { ...rollout, ...news.rollouts[rollout.rollout_id] };
    });
  }
  return unseen.size > 0;
}

/** @param {Record<string, string>} params */
function isFiltered({ status, mode, q, resources }) {
  return Boolean(status || mode || q || resources);
}

/** First click: ascending, or for times and rewards newest and best first; then the other way. */
function nextSort(/** @type {string} */ sort, /** @type {string} */ field) {
  const down = ["start_time", "end_time", "reward"].includes(field);
  if (sort === field) return `-${field}`;
  if (sort === `-${field}`) return field;
  return down ? `-${field}` : field;
}

/** @param {ReturnType<typeof usePages>} pages @param {import("../vendor/signals.js").Signal<number>} selected @param {(rollout: any, index: number) => void} open */
function useRowKeys(pages, selected, open) {
  // True from an Enter until the row that it opens is here.
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
  useKeys({
    j: () => step(1),
    k: () => step(-1),
    Enter: openSelected,
    "/": () => /** @type {HTMLElement | null} */ (document.querySelector("#search"))?.focus(),
    Escape: () => (selected.value = -1),
  });
}

const TYPING = 200;

/** @param {{value: string}} props */
function Search({ value }) {
  const timer = useRef(0);
  // What is typed and not in the URL yet: whatever is drawn meanwhile leaves it in the field.
  const [draft, setDraft] = useState(/** @type {string | null} */ (null));
  const search = (/** @type {any} */ event) => {
    const q = event.target.value;
    setDraft(q);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      change({ q });
      setDraft(null);
    }, TYPING);
  };
  useEffect(() => () => clearTimeout(timer.current), []);
  return html`<input id="search" type="search" placeholder="Search ids and inputs  /" aria-label="Search ids and inputs" value=${draft ?? value} onInput=${search} />`;
}

/** @param {{name: string, values: string[], chosen: string}} props */
function Choices({ name, values, chosen }) {
  const on = new Set(chosen ? chosen.split(",") : []);
  const toggle = (/** @type {string} */ value) => {
    if (!on.delete(value)) on.add(value);
    change({ [name]: values.filter((one) => on.has(one)).join(",") });
  };
  return html`<details class="choices">
    <summary>${on.size ? `${name}: ${[...on].join(", ")}` : name}</summary>
    <div class="menu" role="group" aria-label=${name}>
      ${values.map(
        (value) =>
          html`<label><input type="checkbox" checked=${on.has(value)} onChange=${() => toggle(value)} /> ${value}</label>`,
      )}
    </div>
  </details>`;
}

/** @param {{chosen: string[]}} props */
function ColumnChoice({ chosen }) {
  const toggle = (/** @type {string} */ name) => {
    const next = chosen.includes(name) ? chosen.filter((one) => one !== name) : [...chosen, name];
    change({ cols: next.join(",") });
  };
  return html`<details class="choices">
    <summary>columns</summary>
    <div class="menu" role="group" aria-label="Columns">
      ${COLUMNS.filter(({ name }) => name !== "tick" && name !== "rollout").map(
        ({ name, title }) =>
          html`<label><input type="checkbox" checked=${chosen.includes(name)} onChange=${() => toggle(name)} /> ${title}</label>`,
      )}
    </div>
  </details>`;
}

/** @param {{rollout: any}} props */
function Tick({ rollout }) {
  const toggle = () => {
    const next = new Map(ticked.value);
    if (!next.delete(rollout.rollout_id)) next.set(rollout.rollout_id, rollout);
    ticked.value = next;
  };
  return html`<input
    type="checkbox"
    aria-label=${`Select ${rollout.rollout_id}`}
    checked=${ticked.value.has(rollout.rollout_id)}
    onChange=${toggle}
  />`;
}

/** What can be done with the ticked rollouts, or with all that are listed. @param {{query: any, total: number | null}} props */
function Ticked({ query, total }) {
  const chosen = [...ticked.value.values()];
  const [doing, setDoing] = useState("");
  const done = async (/** @type {Promise<any>} */ work) => {
    await work;
    setDoing("");
    ticked.value = new Map();
  };
  if (!chosen.length) {
    return html`<div class="actions dim">
      ${doing || "Tick rows to retry, cancel or export them."}
      ${Boolean(total) && html`<button class="small" onClick=${() => done(exported(query, setDoing))}>Export all ${count(total)} as JSONL</button>`}
    </div>`;
  }
  const fixed = unchangeable.value;
  const ids = chosen.map(({ rollout_id }) => rollout_id);
  return html`<div class="actions">
    <span>${count(chosen.length)} ticked ${doing}</span>
    ${!fixed && html`<button class="small" onClick=${() => done(retried(ids))}>Retry</button>`}
    ${!fixed && html`<button class="small" onClick=${() => done(cancelled(ids))}>Cancel</button>`}
    <button class="small" onClick=${() => done(exported({ rollout_id_in: ids }, setDoing))}>Export as JSONL</button>
    <button class="small quiet" onClick=${() => (ticked.value = new Map())}>Untick</button>
  </div>`;
}

/** @param {{rollout: any}} props */
function Took({ rollout }) {
  const { start_time, end_time, status } = rollout;
  const seconds = FINAL.has(status) ? end_time - start_time : now.value - start_time;
  return html`<span class="number ${FINAL.has(status) ? "" : "dim"}">${duration(seconds)}</span>`;
}

/** @param {{filtered: boolean}} props */
function NoRollouts({ filtered }) {
  if (filtered) return html`<${Empty}>No rollout fits the filters.<//>`;
  return html`<${Empty} command=${'await store.enqueue_rollout(input={"question": "…"}, mode="train")'}>
    No rollouts yet. An algorithm puts them in the queue; <code>agl demo</code> makes 120.
  <//>`;
}
