// What is tuned: every version with what it was worth, the difference of any two, and the same tasks under both.

import { call } from "../api.js";
import { useCall, useLoaded } from "../data.js";
import { interval } from "../parts/chart.js";
import { Difference } from "../parts/difference.js";
import { useKeys } from "../keys.js";
import { Empty, ResourcesLink, Reward, RolloutLink, Status, Time, Value, Waiting } from "../parts/small.js";
import { change, link } from "../route.js";
import { Conversation } from "../trace/chat.js";
import { isCall } from "../trace/spans.js";
import { html, useEffect, useMemo, useRef } from "../ui.js";
import { brief, count, plural, score, visible } from "../words.js";
import { byVersion, nameOf } from "./overview.js";

const MOST = 200;
const TASKS_COMPARED = 500;
const TASKS_SHOWN = 50;
const SPANS_CUT_AT = 20_000;
const NONE = {};

/** @param {{params: Record<string, string>}} props */
export function Resources({ params }) {
  const loaded = useCall("query_resources", { limit: MOST, sort_order: "desc" }, (news) => news.resources);
  const summary = useCall("summary", {}, (news) => Object.keys(news.rollouts).length > 0);
  const scores = useMemo(
    () => new Map(byVersion(summary.data?.versions ?? []).map((score) => [nameOf(score), score])),
    [summary.data],
  );
  if (!loaded.data) return html`<${Waiting} of=${loaded} what="the resources" />`;
  const { items, total } = loaded.data;
  if (!items.length) {
    return html`<section class="page-view">
      <h1>Resources</h1>
      <${Empty} command=${'await store.add_resources({"prompt": "Answer {question}"})'}>No resources yet. An algorithm stores what it tunes:<//>
    </section>`;
  }
  const right = named(items, params.right) ?? items[0];
  const left = named(items, params.left) ?? parentOf(items, right) ?? items[items.indexOf(right) + 1] ?? null;
  return html`<section class="page-view" aria-labelledby="title">
    <div class="toolbar">
      <h1 id="title">Resources</h1>
      <span class="dim">${plural(total, "version")}${total > items.length ? `, the newest ${count(items.length)} shown` : ""}</span>
    </div>
    ${params.task && html`<${SideBySide} key=${params.task} ids=${params.task.split(",")} />`}
    <div class="versions">
      <${Versions} ...${{ items, scores, left, right }} />
      <div class="compared">
        <${Compared} ...${{ left, right }} />
        ${left && html`<${SameTasks} key=${nameOf(left) + nameOf(right)} ...${{ left, right }} shown=${params.task ?? ""} />`}
      </div>
    </div>
  </section>`;
}

/** The version that it was made of: the one that it names, or the one before it of the same bundle. @param {any[]} items newest first @param {any} of */
function parentOf(items, of) {
  const earlier = items.slice(items.indexOf(of) + 1);
  const parent = parentTold(of) ?? of.resources_id;
  return earlier.find(({ resources_id }) => resources_id === parent) ?? null;
}

/** An algorithm may tell of a version's parent in a config beside what it tunes. @param {any} of @returns {string | null} */
function parentTold({ resources }) {
  const told = Object.values(resources).find(({ value }) => typeof value?.parent === "string");
  return told ? told.value.parent : null;
}

/** @param {any[]} items @param {string | undefined} name */
function named(items, name) {
  return items.find((item) => nameOf(item) === name || item.resources_id === name) ?? null;
}

/** @param {{items: any[], scores: Map<string, any>, left: any, right: any}} props */
function Versions({ items, scores, left, right }) {
  const best = Math.max(...items.map((item) => scores.get(nameOf(item))?.mean ?? -Infinity));
  return html`<div class="card scroll" tabindex="0" role="region" aria-label="Versions">
    <table class="plain">
      <thead>
        <tr>
          <th scope="col" class="radio">From</th><th scope="col" class="radio">To</th><th scope="col">Version</th><th scope="col" class="wide">Parent</th>
          <th scope="col" class="number">Reward</th><th scope="col" class="wide">Stored</th>
        </tr>
      </thead>
      <tbody>
        ${items.map((item) => {
          const name = nameOf(item);
          const mark = scores.get(name);
          return html`<tr key=${name} class=${item === right ? "current" : ""}>
            <td class="radio"><${Choose} side="left" name=${name} on=${item === left} /></td>
            <td class="radio"><${Choose} side="right" name=${name} on=${item === right} /></td>
            <td>
              <a class="id" title="Its rollouts" href=${link("rollouts", null, { resources: name })}>${visible(name)}</a>
              ${mark && mark.mean === best && html` <span class="chip">best</span>`}
            </td>
            <td class="id dim wide"><${Parent} of=${item} parent=${parentOf(items, item)} /></td>
            <td class="number">
              <${Reward} value=${mark?.mean} />
              ${mark && html`<span class="dim more">± ${score(interval(mark))} of ${count(mark.count)}</span>`}
            </td>
            <td class="wide"><${Time} at=${item.update_time} /></td>
          </tr>`;
        })}
      </tbody>
    </table>
  </div>`;
}

/** @param {{of: any, parent: any}} props */
function Parent({ of, parent }) {
  if (!parent) return html`${visible(parentTold(of) ?? "–")}`;
  const name = parent.resources_id === of.resources_id ? `version ${parent.version}` : parent.resources_id;
  const compare = { left: nameOf(parent), right: nameOf(of) };
  return html`<a title="Compare with it" href=${link("resources", null, compare)}>${visible(name)}</a>`;
}

/** @param {{side: "left" | "right", name: string, on: boolean}} props */
function Choose({ side, name, on }) {
  const label = `Compare ${side === "left" ? "from" : "to"} ${name}`;
  return html`<input type="radio" name=${side} checked=${on} aria-label=${label} onChange=${() => change({ [side]: name })} />`;
}

/** @param {{left: any, right: any}} props */
function Compared({ left, right }) {
  const before = left?.resources ?? NONE;
  const names = [...new Set([...Object.keys(before), ...Object.keys(right.resources)])];
  return html`<section class="card" aria-labelledby="compared">
    <h2 id="compared">${left ? html`From <span class="id">${visible(nameOf(left))}</span> to ` : ""}<span class="id">${visible(nameOf(right))}</span></h2>
    ${names.map((name) => {
      const [one, other] = [before[name], right.resources[name]];
      return html`<div class="resource" key=${name}>
        <h3>${visible(name)} <span class="dim">${visible((other ?? one).resource_type).replaceAll("_", " ")}${other ? "" : ", left out"}</span></h3>
        ${other && left ? html`<${Difference} from=${textOf(one)} to=${textOf(other)} />` : html`<${Value} value=${textOf(other ?? one)} label=${name} />`}
      </div>`;
    })}
  </section>`;
}

/** A resource as text: a prompt's own, or the JSON of anything else. @param {any} resource */
function textOf(resource) {
  if (!resource) return "";
  if (resource.resource_type === "prompt_template") return resource.template;
  const { resource_type, ...rest } = resource;
  return JSON.stringify(resource_type === "config" ? rest.value : rest, null, 2);
}

/** The same tasks under two versions, the most different first. @param {{left: any, right: any, shown: string}} props */
function SameTasks({ left, right, shown }) {
  const loaded = useLoaded(
    async (options) => {
      const of = (/** @type {any} */ { resources_id, version }) =>
        call(
          "query_rollouts",
          { resources_id, resources_version: version, limit: TASKS_COMPARED, sort_order: "desc" },
          options,
        );
      const [one, other] = await Promise.all([of(left), of(right)]);
      return pairs(one.items, other.items);
    },
    [nameOf(left), nameOf(right)],
  );
  if (!loaded.data) return html`<${Waiting} of=${loaded} what="the tasks of both" />`;
  if (!loaded.data.length) return html`<p class="dim">No task has been run under both.</p>`;
  const tasks = loaded.data;
  return html`<section class="card" aria-labelledby="same-tasks">
    <h2 id="same-tasks">The same task under both</h2>
    <p class="dim">${verdict(tasks)} The most different first; choose one to see both side by side.</p>
    <table class="plain">
      <thead><tr><th scope="col">Input</th><th scope="col">From</th><th scope="col">To</th><th scope="col" class="number">Change</th></tr></thead>
      <tbody>
        ${tasks.slice(0, TASKS_SHOWN).map((/** @type {Pair} */ { one, other, by }) => {
          const ids = `${one.rollout_id},${other.rollout_id}`;
          return html`<tr key=${ids} class=${ids === shown ? "current" : ""}>
            <td><button class="link task" aria-pressed=${ids === shown} onClick=${() => change({ task: ids })}>${brief(one.input, 120)}</button></td>
            <td><${Outcome} rollout=${one} /></td>
            <td><${Outcome} rollout=${other} /></td>
            <td class="number ${by === 0 ? "dim" : by < 0 ? "bad" : "good"}">${by > 0 ? "+" : ""}${score(by)}</td>
          </tr>`;
        })}
      </tbody>
    </table>
    ${tasks.length > TASKS_SHOWN && html`<p class="dim">and ${plural(tasks.length - TASKS_SHOWN, "task")} that differ less.</p>`}
  </section>`;
}

/** @typedef {{one: any, other: any, by: number}} Pair */

/** @param {Pair[]} tasks */
function verdict(tasks) {
  const better = tasks.filter(({ by }) => by > 0).length;
  const worse = tasks.filter(({ by }) => by < 0).length;
  const mean = tasks.reduce((sum, { by }) => sum + by, 0) / tasks.length;
  return `${plural(tasks.length, "task")}: ${count(better)} better, ${count(worse)} worse, ${count(tasks.length - better - worse)} the same; the mean changes by ${mean > 0 ? "+" : ""}${score(mean)}.`;
}

/** @param {{rollout: any}} props */
function Outcome({ rollout }) {
  return rollout.reward === null
    ? html`<${Status} status=${rollout.status} />`
    : html`<${Reward} value=${rollout.reward} />`;
}

/** Two rollouts, most often of one task, and what was said in each. @param {{ids: string[]}} props */
function SideBySide({ ids }) {
  const section = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => section.current?.scrollIntoView({ block: "start" }), []);
  const close = () => change({ task: null });
  useKeys({ Escape: close });
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
  const loaded = useLoaded(
    async (options) => {
      const [rollout, spans] = await Promise.all([
        call("get_rollout_by_id", { rollout_id: id }, options),
        call("query_spans", { rollout_id: id, attempt_id: "latest", cut_at: SPANS_CUT_AT }, options),
      ]);
      return { rollout, calls: spans.items.filter(isCall) };
    },
    [id],
    (news) => id in news.rollouts || news.spans.includes(id),
  );
  if (!loaded.data) return html`<${Waiting} of=${loaded} what="the rollout" />`;
  const { rollout, calls } = loaded.data;
  if (!rollout) return html`<${Empty}>There is no rollout <code>${visible(id)}</code> in this store.<//>`;
  const reason = rollout.attempt?.metadata?.reason;
  return html`<article class="side" aria-label=${`Rollout ${id}`}>
    <p class="facts">
      <${RolloutLink} id=${id} /> <${Status} status=${rollout.status} />
      <span>reward <${Reward} value=${rollout.reward} /></span>
      <${ResourcesLink} id=${rollout.resources_id} version=${rollout.resources_version} />
    </p>
    ${reason && html`<p class="bad">${brief(reason)}</p>`}
    ${calls.length ? html`<${Conversation} spans=${calls} />` : html`<p class="dim">No model was called.</p>`}
  </article>`;
}

/** @param {any[]} ones @param {any[]} others @returns {Pair[]} */
function pairs(ones, others) {
  const byInput = new Map(others.map((rollout) => [JSON.stringify(rollout.input), rollout]));
  const matched = new Map(ones.map((rollout) => [JSON.stringify(rollout.input), rollout]));
  return [...matched]
    .filter(([input]) => byInput.has(input))
    .map(([input, one]) => {
      const other = byInput.get(input);
      return { one, other, by: (other.reward ?? 0) - (one.reward ?? 0) };
    })
    .sort((a, b) => Math.abs(b.by) - Math.abs(a.by));
}
