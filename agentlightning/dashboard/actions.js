// What can be done from the page: run a task again, cancel it, take everything known of it along as JSONL.

import { call } from "./api.js";
import { saidOf } from "./data.js";
import { say } from "./parts/messages.js";
import { link } from "./route.js";
import { plural } from "./words.js";

export const FINAL = new Set(["succeeded", "failed", "cancelled"]);

const AT_ONCE = 200;
const SPANS_AT_ONCE = 4;

/** Put the same tasks in the queue again; what has ended stays as it is. @param {string[]} ids */
export async function retried(ids) {
  const made = await each(ids, retry);
  if (made.length === 1) say("In the queue again as", { link: { href: link("rollouts", made[0]), text: made[0] } });
  else if (made.length) say(`${plural(made.length, "rollout")} in the queue again.`);
}

/** Cancel those that have not ended. @param {string[]} ids */
export async function cancelled(ids) {
  const done = await each(ids, (rollout_id) => call("update_rollout", { rollout_id, status: "cancelled" }));
  if (done.length) say(`${plural(done.length, "rollout")} cancelled.`);
}

/**
 * Download the rollouts that fit `query`, one a line, each with its attempts and spans.
 * @param {Record<string, any>} query
 * @param {(text: string) => void} progress
 */
export async function exported(query, progress) {
  /** @type {string[]} */
  const lines = [];
  const { cut_at, ...whole } = query;
  try {
    for (let offset = 0, total = 1; offset < total; offset += AT_ONCE) {
      const page = await call("query_rollouts", { ...whole, offset, limit: AT_ONCE });
      total = page.total;
      await eachOf(page.items, SPANS_AT_ONCE, async (rollout, index) => {
        lines[offset + index] = JSON.stringify(await everythingOf(rollout));
        progress(`Exporting ${lines.length} of ${total}…`);
      });
    }
    download("rollouts.jsonl", [lines.join("\n"), "\n"]);
    say(`Exported ${plural(lines.length, "rollout")} to rollouts.jsonl.`);
  } catch (error) {
    say(saidOf(error), { bad: true });
  }
}

/** @param {any} rollout */
async function everythingOf(rollout) {
  const { rollout_id } = rollout;
  const [attempts, spans] = await Promise.all([
    call("query_attempts", { rollout_id }),
    call("query_spans", { rollout_id }),
  ]);
  return { ...rollout, attempts: attempts.items, spans: spans.items };
}

/** @param {string} rollout_id */
async function retry(rollout_id) {
  const rollout = await call("get_rollout_by_id", { rollout_id });
  const { input, mode, resources_id, config, metadata } = rollout;
  if (!FINAL.has(rollout.status)) throw new Error(`${rollout_id} is still ${rollout.status}; cancel it first.`);
  const again = { input, mode, resources_id, config, metadata: { ...metadata, retry_of: rollout_id } };
  return (await call("enqueue_rollout", again)).rollout_id;
}

/**
 * Do it to each; say what went wrong with some, once.
 * @template T
 * @param {string[]} ids
 * @param {(id: string) => Promise<T>} act
 */
async function each(ids, act) {
  /** @type {T[]} */
  const done = [];
  /** @type {any[]} */
  const problems = [];
  await eachOf(ids, SPANS_AT_ONCE, async (id) => {
    try {
      done.push(await act(id));
    } catch (error) {
      problems.push(error);
    }
  });
  if (problems.length) {
    const others = problems.length > 1 ? ` (and ${problems.length - 1} more)` : "";
    say(`${problems[0].message}${others}`, { bad: true });
  }
  return done;
}

/**
 * @template T
 * @param {T[]} items
 * @param {number} atOnce
 * @param {(item: T, index: number) => Promise<void>} act
 */
async function eachOf(items, atOnce, act) {
  let next = 0;
  const work = async () => {
    while (next < items.length) {
      const index = next++;
      await act(items[index], index);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
}

/** @param {string} name @param {string[]} parts */
function download(name, parts) {
  const url = URL.createObjectURL(new Blob(parts, { type: "application/jsonl" }));
  const anchor = Object.assign(document.createElement("a"), { href: url, download: name });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
