// Actions on rollouts: retry, cancel, and export as JSONL.

import { call } from "./api.js";
import { notify } from "./components/notifications.js";
import { plural, statusLabel } from "./format.js";
import { errorMessage } from "./query.js";
import { link } from "./route.js";

export const FINAL = new Set(["succeeded", "failed", "cancelled"]);

const PAGE_SIZE = 200;
const CONCURRENCY = 4;

/**
 * Enqueue the tasks of finished rollouts again as new rollouts. The finished ones stay unchanged.
 * @param {string[]} ids
 */
export async function retryRollouts(ids) {
  const created = await applyToAll(ids, retryRollout);
  if (created.length === 1) notify("Requeued as", { link: { href: link("rollouts", created[0]), text: created[0] } });
  else if (created.length) notify(`${plural(created.length, "rollout")} requeued.`);
}

/** Cancel unfinished rollouts. @param {string[]} ids */
export async function cancelRollouts(ids) {
  const done = await applyToAll(ids, (rollout_id) => call("update_rollout", { rollout_id, status: "cancelled" }));
  if (done.length) notify(`${plural(done.length, "rollout")} cancelled.`);
}

/**
 * Download the rollouts that match `query` as JSONL, each with its attempts and spans.
 * @param {Record<string, any>} query
 * @param {(text: string) => void} onProgress
 */
export async function exportRollouts(query, onProgress) {
  /** @type {string[]} */
  const lines = [];
  const { cut_at, ...untruncated } = query;
  try {
    for (let offset = 0, total = 1; offset < total; offset += PAGE_SIZE) {
      const page = await call("query_rollouts", { ...untruncated, offset, limit: PAGE_SIZE });
      total = page.total;
      await forEachConcurrently(page.items, async (rollout, index) => {
        lines[offset + index] = JSON.stringify(await withAttemptsAndSpans(rollout));
        onProgress(`Exporting ${lines.length} of ${total}…`);
      });
    }
    download("rollouts.jsonl", [lines.join("\n"), "\n"]);
    notify(`Exported ${plural(lines.length, "rollout")} to rollouts.jsonl.`);
  } catch (error) {
    notify(errorMessage(error), { isError: true });
  }
}

/** @param {any} rollout */
async function withAttemptsAndSpans(rollout) {
  const { rollout_id } = rollout;
  const [attempts, spans] = await Promise.all([
    call("query_attempts", { rollout_id }),
    call("query_spans", { rollout_id }),
  ]);
  return { ...rollout, attempts: attempts.items, spans: spans.items };
}

/** @param {string} rollout_id */
async function retryRollout(rollout_id) {
  const rollout = await call("get_rollout_by_id", { rollout_id });
  const { input, mode, resources_id, config, metadata, status } = rollout;
  if (!FINAL.has(status)) {
    throw new Error(`${rollout_id} has not finished (${statusLabel(status).toLowerCase()}); cancel it first.`);
  }
  const request = { input, mode, resources_id, config, metadata: { ...metadata, retry_of: rollout_id } };
  return (await call("enqueue_rollout", request)).rollout_id;
}

/**
 * Apply `action` to each id and return the results. All failures are reported in one notification.
 * @template T
 * @param {string[]} ids
 * @param {(id: string) => Promise<T>} action
 */
async function applyToAll(ids, action) {
  /** @type {T[]} */
  const done = [];
  /** @type {any[]} */
  const errors = [];
  await forEachConcurrently(ids, async (id) => {
    try {
      done.push(await action(id));
    } catch (error) {
      errors.push(error);
    }
  });
  if (errors.length) {
    const others = errors.length > 1 ? ` (and ${errors.length - 1} more)` : "";
    notify(`${errors[0].message}${others}`, { isError: true });
  }
  return done;
}

/**
 * @template T
 * @param {T[]} items
 * @param {(item: T, index: number) => Promise<void>} action
 */
async function forEachConcurrently(items, action) {
  let next = 0;
  const work = async () => {
    while (next < items.length) {
      const index = next++;
      await action(items[index], index);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, work));
}

/** @param {string} name @param {string[]} parts */
function download(name, parts) {
  const url = URL.createObjectURL(new Blob(parts, { type: "application/jsonl" }));
  const anchor = Object.assign(document.createElement("a"), { href: url, download: name });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
