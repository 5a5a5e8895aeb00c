// Resources: all versions with their rewards, the difference between two versions, and the tasks run with both.

import { call, MAX_SPANS } from "../api.js";
import { ciHalfWidth } from "../components/chart.js";
import { TextDiff } from "../components/diff.js";
import {
  EmptyState,
  Loading,
  ResourcesLink,
  Reward,
  RolloutLink,
  Status,
  Time,
  Value,
} from "../components/elements.js";
import { count, oneLine, plural, printable, score } from "../format.js";
import { useKeyBindings } from "../keyboard.js";
import { useOperation, useQuery } from "../query.js";
import { link, updateParams } from "../route.js";
import { Conversation } from "../trace/chat.js";
import { isCall } from "../trace/spans.js";
import { html, useEffect, useMemo, useRef } from "../ui.js";
import { scoresByVersion, versionName } from "./overview.js";

const MAX_VERSIONS = 200;
const TASKS_COMPARED = 500;
const TASKS_SHOWN = 50;
const SPANS_CUT_AT = 20_000;

/** @param {{params: Record<string, string>}} props */
export function Resources({ params }) {
  const query = useOperation(
    "query_resources",
    { limit: MAX_VERSIONS, sort_order: "desc" },
    (change) => change.resources,
  );
  const summary = useOperation("summary", {}, (change) => Object.keys(change.rollouts).length > 0);
  const scores = useMemo(
    () => new Map(scoresByVersion(summary.data?.versions ?? []).map((score) => [versionName(score), score])),
    [summary.data],
  );
  if (!query.data) return html`<${Loading} query=${query} name="the resources" />`;
  const { items, total } = query.data;
  if (!items.length) {
    return html`<section class="page-view">
      <h1>Resources</h1>
      <${EmptyState} command=${'await store.add_resources({"prompt": "Answer {question}"})'}>No resources yet. Add a first version:<//>
    </section>`;
  }
  const right = findVersion(items, params.right) ?? items[0];
  const left = findVersion(items, params.left) ?? parentOf(items, right) ?? items[items.indexOf(right) + 1] ?? null;
  return html`<section class="page-view" aria-labelledby="title">
    <div class="toolbar">
      <h1 id="title">Resources</h1>
      <span class="dim">${plural(total, "version")}${total > items.length ? ` (newest ${count(items.length)} shown)` : ""}</span>
    </div>
    ${params.task && html`<${SideBySide} key=${params.task} ids=${params.task.split(",")} />`}
    <div class="versions">
      <${Versions} ...${{ items, scores, left, right }} />
      <div class="comparison">
        <${Comparison} ...${{ left, right }} />
        ${left && html`<${SharedTasks} key=${versionName(left) + versionName(right)} ...${{ left, right }} shown=${params.task ?? ""} />`}
      </div>
    </div>
  </section>`;
}

/**
 * Return the parent of a version: the version that its config names, or else the previous version with the same id.
 * @param {any[]} items newest first
 * @param {any} version
 */
function parentOf(items, version) {
  const earlier = items.slice(items.indexOf(version) + 1);
  const parent = namedParent(version) ?? version.resources_id;
  return earlier.find(({ resources_id }) => resources_id === parent) ?? null;
}

/**
 * Return the `parent` in a config resource, in which an algorithm can name the origin of a version.
 * @param {any} version
 * @returns {string | null}
 */
function namedParent({ resources }) {
  const config = Object.values(resources).find(({ value }) => typeof value?.parent === "string");
  return config ? config.value.parent : null;
}

/** @param {any[]} items @param {string | undefined} name */
function findVersion(items, name) {
  return items.find((item) => versionName(item) === name || item.resources_id === name) ?? null;
}

/** @param {{items: any[], scores: Map<string, any>, left: any, right: any}} props */
function Versions({ items, scores, left, right }) {
  const best = Math.max(...items.map((item) => scores.get(versionName(item))?.mean ?? -Infinity));
  return html`<div class="card scroll" tabindex="0" role="region" aria-label="Versions">
    <table class="plain">
      <thead>
        <tr>
          <th scope="col" class="radio">From</th><th scope="col" class="radio">To</th><th scope="col">Version</th><th scope="col" class="wide">Parent</th>
          <th scope="col" class="number">Reward</th><th scope="col" class="wide">Created</th>
        </tr>
      </thead>
      <tbody>
        ${items.map((item) => {
          const name = versionName(item);
          const reward = scores.get(name);
          return html`<tr key=${name} class=${item === right ? "current" : ""}>
            <td class="radio"><${VersionRadio} side="left" name=${name} checked=${item === left} /></td>
            <td class="radio"><${VersionRadio} side="right" name=${name} checked=${item === right} /></td>
            <td>
              <a class="id" title="Show the rollouts of this version" href=${link("rollouts", null, { resources: name })}>${printable(name)}</a>
              ${reward && reward.mean === best && html` <span class="chip">best</span>`}
            </td>
            <td class="id dim wide"><${Parent} version=${item} parent=${parentOf(items, item)} /></td>
            <td class="number">
              <${Reward} value=${reward?.mean} />
              ${reward && html`<span class="dim more">± ${score(ciHalfWidth(reward))} (${count(reward.count)})</span>`}
            </td>
            <td class="wide"><${Time} at=${item.update_time} /></td>
          </tr>`;
        })}
      </tbody>
    </table>
  </div>`;
}

/** @param {{version: any, parent: any}} props */
function Parent({ version, parent }) {
  if (!parent) return html`${printable(namedParent(version) ?? "–")}`;
  const name = parent.resources_id === version.resources_id ? `version ${parent.version}` : parent.resources_id;
  const compare = { left: versionName(parent), right: versionName(version) };
  return html`<a title="Compare with the parent" href=${link("resources", null, compare)}>${printable(name)}</a>`;
}

/** @param {{side: "left" | "right", name: string, checked: boolean}} props */
function VersionRadio({ side, name, checked }) {
  const label = `Compare ${side === "left" ? "from" : "to"} ${name}`;
  return html`<input type="radio" name=${side} checked=${checked} aria-label=${label} onChange=${() => updateParams({ [side]: name })} />`;
}

/** @param {{left: any, right: any}} props */
function Comparison({ left, right }) {
  const before = left?.resources ?? {};
  const names = [...new Set([...Object.keys(before), ...Object.keys(right.resources)])];
  return html`<section class="card" aria-labelledby="comparison">
    <h2 id="comparison">${left ? html`From <span class="id">${printable(versionName(left))}</span> to ` : ""}<span class="id">${printable(versionName(right))}</span></h2>
    ${names.map((name) => {
      const [one, other] = [before[name], right.resources[name]];
      return html`<div class="resource" key=${name}>
        <h3>${printable(name)} <span class="dim">${printable((other ?? one).resource_type).replaceAll("_", " ")}${other ? "" : ", removed"}</span></h3>
        ${other && left ? html`<${TextDiff} from=${textOf(one)} to=${textOf(other)} />` : html`<${Value} value=${textOf(other ?? one)} label=${name} />`}
      </div>`;
    })}
  </section>`;
}

/** A resource as text: a prompt's template, or the JSON of any other type. @param {any} resource */
function textOf(resource) {
  if (!resource) return "";
  if (resource.resource_type === "prompt_template") return resource.template;
  const { resource_type, ...rest } = resource;
  return JSON.stringify(resource_type === "config" ? rest.value : rest, null, 2);
}

/**
 * The tasks that were run with both versions, with the largest change in reward first.
 * @param {{left: any, right: any, shown: string}} props
 */
function SharedTasks({ left, right, shown }) {
  const query = useQuery(
    async (options) => {
      const rolloutsOf = (/** @type {any} */ { resources_id, version }) =>
        call(
          "query_rollouts",
          { resources_id, resources_version: version, limit: TASKS_COMPARED, sort_order: "desc" },
          options,
        );
      const [before, after] = await Promise.all([rolloutsOf(left), rolloutsOf(right)]);
      return pairByInput(before.items, after.items);
    },
    [versionName(left), versionName(right)],
  );
  if (!query.data) return html`<${Loading} query=${query} name="the tasks of both versions" />`;
  if (!query.data.length) return html`<p class="dim">No task ran with both versions.</p>`;
  const pairs = query.data;
  return html`<section class="card" aria-labelledby="shared-tasks">
    <h2 id="shared-tasks">Tasks run with both versions</h2>
    <p class="dim">${summarize(pairs)} Largest change first; select a task to see its rollouts side by side.</p>
    <table class="plain">
      <thead><tr><th scope="col">Input</th><th scope="col">From</th><th scope="col">To</th><th scope="col" class="number">Change</th></tr></thead>
      <tbody>
        ${pairs.slice(0, TASKS_SHOWN).map((/** @type {Pair} */ { before, after, difference }) => {
          const ids = `${before.rollout_id},${after.rollout_id}`;
          return html`<tr key=${ids} class=${ids === shown ? "current" : ""}>
            <td><button class="link task" aria-pressed=${ids === shown} onClick=${() => updateParams({ task: ids })}>${oneLine(before.input, 120)}</button></td>
            <td><${Outcome} rollout=${before} /></td>
            <td><${Outcome} rollout=${after} /></td>
            <td class="number ${difference === 0 ? "dim" : difference < 0 ? "bad" : "good"}">${signed(difference)}</td>
          </tr>`;
        })}
      </tbody>
    </table>
    ${pairs.length > TASKS_SHOWN && html`<p class="dim">and ${plural(pairs.length - TASKS_SHOWN, "task")} with smaller changes</p>`}
  </section>`;
}

/** @typedef {{before: any, after: any, difference: number}} Pair */

/** @param {Pair[]} pairs */
function summarize(pairs) {
  const better = pairs.filter(({ difference }) => difference > 0).length;
  const worse = pairs.filter(({ difference }) => difference < 0).length;
  const mean = pairs.reduce((sum, { difference }) => sum + difference, 0) / pairs.length;
  return `${plural(pairs.length, "task")}: ${count(better)} better, ${count(worse)} worse, ${count(pairs.length - better - worse)} unchanged; mean change ${signed(mean)}.`;
}

/** @param {number} difference */
function signed(difference) {
  return `${difference > 0 ? "+" : ""}${score(difference)}`;
}

/** @param {{rollout: any}} props */
function Outcome({ rollout }) {
  return rollout.reward === null
    ? html`<${Status} status=${rollout.status} />`
    : html`<${Reward} value=${rollout.reward} />`;
}

/** Two rollouts, usually of the same task, with their conversations. @param {{ids: string[]}} props */
function SideBySide({ ids }) {
  const section = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => section.current?.scrollIntoView({ block: "start" }), []);
  const close = () => updateParams({ task: null });
  useKeyBindings({ Escape: close });
  return html`<section class="card" aria-labelledby="side-by-side" ref=${section}>
    <div class="toolbar">
      <h2 id="side-by-side">Side by side</h2><span class="spacer"></span>
      <button class="small" onClick=${close}>Close</button>
    </div>
    <div class="sides">${ids.slice(0, 2).map((id) => html`<${Side} key=${id} id=${id} />`)}</div>
  </section>`;
}

/** @param {{id: string}} props */
function Side({ id }) {
  const query = useQuery(
    async (options) => {
      const [rollout, spans] = await Promise.all([
        call("get_rollout_by_id", { rollout_id: id }, options),
        call("query_spans", { rollout_id: id, attempt_id: "latest", cut_at: SPANS_CUT_AT, limit: MAX_SPANS }, options),
      ]);
      return { rollout, calls: spans.items.filter(isCall) };
    },
    [id],
    (change) => id in change.rollouts || change.spans.includes(id),
  );
  if (!query.data) return html`<${Loading} query=${query} name="the rollout" />`;
  const { rollout, calls } = query.data;
  if (!rollout) return html`<${EmptyState}>Rollout <code>${printable(id)}</code> does not exist in this store.<//>`;
  const reason = rollout.attempt?.metadata?.reason;
  return html`<article class="side" aria-label=${`Rollout ${id}`}>
    <p class="facts">
      <${RolloutLink} id=${id} /> <${Status} status=${rollout.status} />
      <span>reward <${Reward} value=${rollout.reward} /></span>
      <${ResourcesLink} id=${rollout.resources_id} version=${rollout.resources_version} />
    </p>
    ${reason && html`<p class="bad">${oneLine(reason)}</p>`}
    ${calls.length ? html`<${Conversation} spans=${calls} />` : html`<p class="dim">No model calls.</p>`}
  </article>`;
}

/**
 * Pair the rollouts that have the same input, with the largest change in reward first.
 * @param {any[]} before
 * @param {any[]} after
 * @returns {Pair[]}
 */
function pairByInput(before, after) {
  const byInput = (/** @type {any[]} */ rollouts) =>
    new Map(rollouts.map((rollout) => [JSON.stringify(rollout.input), rollout]));
  const later = byInput(after);
  return [...byInput(before)]
    .filter(([input]) => later.has(input))
    .map(([input, rollout]) => {
      const other = later.get(input);
      return { before: rollout, after: other, difference: (other.reward ?? 0) - (rollout.reward ?? 0) };
    })
    .sort((a, b) => Math.abs(b.difference) - Math.abs(a.difference));
}
