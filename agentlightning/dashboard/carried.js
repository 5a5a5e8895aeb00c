// A run that the page carries with it, and the operations it can answer without a store (`agl export`).

/** @typedef {Record<string, any>} Json */

const RUN = "run";

/** @type {CarriedRun | null | undefined} */
let carried;

/** The run in this page, if it has one. */
export function carriedRun() {
  if (carried === undefined) {
    const text = document.getElementById(RUN)?.textContent;
    carried = text ? new CarriedRun(JSON.parse(text)) : null;
  }
  return carried;
}

class CarriedRun {
  /** @param {Json} run */
  constructor(run) {
    this.run = run;
  }

  /** @param {string} name @param {Json} given */
  answer(name, given) {
    switch (name) {
      case "query_rollouts":
        return page(this.run.rollouts.filter(fitting(given)), given);
      case "get_rollout_by_id":
        return this.run.rollouts.find((/** @type {Json} */ rollout) => rollout.rollout_id === given.rollout_id) ?? null;
      case "query_attempts":
        return page(this.run.attempts[given.rollout_id] ?? [], given);
      case "query_spans":
        return page(this.spans(given), given);
      case "query_resources":
        return page(this.run.resources, given);
      case "query_workers":
        return page(this.run.workers, given);
      case "summary":
        return this.run.summary;
      default:
        throw new Error("This page holds a finished run; it cannot be changed.");
    }
  }

  /** @param {Json} given */
  spans({ rollout_id, attempt_id, span_id }) {
    const spans = this.run.spans[rollout_id] ?? [];
    return spans.filter(
      (/** @type {Json} */ span) =>
        (!attempt_id || span.attempt_id === attempt_id) && (!span_id || span.span_id === span_id),
    );
  }
}

/** @param {Json} given */
function fitting(given) {
  const among = (/** @type {any[] | undefined} */ allowed, /** @type {any} */ value) =>
    !allowed || allowed.includes(value);
  return (/** @type {Json} */ rollout) =>
    among(given.rollout_id_in, rollout.rollout_id) &&
    among(given.status_in, rollout.status) &&
    among(given.mode_in, rollout.mode) &&
    (!given.resources_id || rollout.resources_id === given.resources_id) &&
    (!given.resources_version || rollout.resources_version === given.resources_version) &&
    (!given.text_contains ||
      rollout.rollout_id.includes(given.text_contains) ||
      JSON.stringify(rollout.input).includes(given.text_contains));
}

/** @param {Json[]} items @param {Json} given */
function page(items, { sort_by, sort_order = "asc", limit = -1, offset = 0 }) {
  const ordered = sort_by ? sorted(items, sort_by) : [...items];
  if (sort_order === "desc") ordered.reverse();
  const shown = limit < 0 ? ordered.slice(offset) : ordered.slice(offset, offset + limit);
  return { items: shown, limit, offset, total: items.length };
}

/** @param {Json[]} items @param {string} field */
function sorted(items, field) {
  const rank = (/** @type {Json} */ item) =>
    field === "failed_first" ? Number(item.status !== "failed") : item[field];
  return [...items].sort((one, other) => compare(rank(one), rank(other)));
}

/** @param {any} one @param {any} other */
function compare(one, other) {
  if (one === other) return 0;
  if (one === null || one === undefined) return 1;
  if (other === null || other === undefined) return -1;
  return one < other ? -1 : 1;
}
