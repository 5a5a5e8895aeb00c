// The run that `agl export` embedded in the page, and the store operations that work on it.

/** @typedef {Record<string, any>} Json */

const RUN_ELEMENT_ID = "run";

/** @type {EmbeddedRun | null | undefined} */
let cached;

/** The run embedded in this page, or null. */
export function embeddedRun() {
  if (cached === undefined) {
    const text = document.getElementById(RUN_ELEMENT_ID)?.textContent;
    cached = text ? new EmbeddedRun(JSON.parse(text)) : null;
  }
  return cached;
}

class EmbeddedRun {
  /** @param {Json} run */
  constructor(run) {
    this.run = run;
  }

  /** @param {string} name @param {Json} args */
  execute(name, args) {
    switch (name) {
      case "query_rollouts":
        return paginate(this.run.rollouts.filter(rolloutFilter(args)), args);
      case "get_rollout_by_id":
        return this.run.rollouts.find((/** @type {Json} */ rollout) => rollout.rollout_id === args.rollout_id) ?? null;
      case "query_attempts":
        return paginate(this.run.attempts[args.rollout_id] ?? [], args);
      case "query_spans":
        return paginate(this.spans(args), args);
      case "query_resources":
        return paginate(this.run.resources, args);
      case "query_workers":
        return paginate(this.run.workers, args);
      case "summary":
        return this.run.summary;
      default:
        throw new Error("This page is a read-only export of a run.");
    }
  }

  /** @param {Json} args */
  spans({ rollout_id, attempt_id, span_id }) {
    const spans = this.run.spans[rollout_id] ?? [];
    return spans.filter(
      (/** @type {Json} */ span) =>
        (!attempt_id || span.attempt_id === attempt_id) && (!span_id || span.span_id === span_id),
    );
  }
}

/** @param {Json} args */
function rolloutFilter(args) {
  const isAllowed = (/** @type {any[] | undefined} */ allowed, /** @type {any} */ value) =>
    !allowed || allowed.includes(value);
  return (/** @type {Json} */ rollout) =>
    isAllowed(args.rollout_id_in, rollout.rollout_id) &&
    isAllowed(args.status_in, rollout.status) &&
    isAllowed(args.mode_in, rollout.mode) &&
    (!args.resources_id || rollout.resources_id === args.resources_id) &&
    (!args.resources_version || rollout.resources_version === args.resources_version) &&
    (!args.text_contains ||
      rollout.rollout_id.includes(args.text_contains) ||
      JSON.stringify(rollout.input).includes(args.text_contains));
}

/** @param {Json[]} items @param {Json} args */
function paginate(items, { sort_by, sort_order = "asc", limit = -1, offset = 0 }) {
  const ordered = sort_by ? sortedBy(items, sort_by) : [...items];
  if (sort_order === "desc") ordered.reverse();
  const page = limit < 0 ? ordered.slice(offset) : ordered.slice(offset, offset + limit);
  return { items: page, limit, offset, total: items.length };
}

/** @param {Json[]} items @param {string} field */
function sortedBy(items, field) {
  const key = (/** @type {Json} */ item) => (field === "failed_first" ? Number(item.status !== "failed") : item[field]);
  return [...items].sort((a, b) => compare(key(a), key(b)));
}

/** Compare two values for sorting, so that missing values come last. @param {any} a @param {any} b */
function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1;
  if (b === null || b === undefined) return -1;
  return a < b ? -1 : 1;
}
