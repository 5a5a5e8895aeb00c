// What is tuned: every version with what it was worth, the difference of any two, and the same tasks under both.

import { call } from "../api.js";
import { useCall, useLoaded } from "../data.js";
import { interval } from "../parts/chart.js";
import { Difference } from "../parts/difference.js";
import { Empty, Reward, RolloutLink, Status, Time, Value, Waiting } from "../parts/small.js";
import { change, link } from "../route.js";
import { html, useMemo } from "../ui.js";
import { brief, count, score, visible } from "../words.js";
import { byVersion, nameOf } from "./overview.js";

const MOST = 200;
const TASKS_COMPARED = 500;
const TASKS_SHOWN = 50;
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
  const left = named(items, params.left) ?? parentOf(items, right);
  return html`<section class="page-view" aria-labelledby="title">
    <div class="toolbar">
      <h1 id="title">Resources</h1>
      <span class="dim">${count(total)} versions${total > items.length ? `, the newest ${count(items.length)} shown` : ""}</span>
    </div>
    <div class="versions">
      <${Versions} ...${{ items, scores, left, right }} />
      <div class="compared">
        <${Compared} ...${{ left, right }} />
        ${left && html`<${SameTasks} key=${nameOf(left) + nameOf(right)} ...${{ left, right }} />`}
      </div>
    </div>
  </section>`;
}

/** The version that came before, of the same bundle where it has one. @param {any[]} items newest first @param {any} of */
function parentOf(items, of) {
  const earlier = items.slice(items.indexOf(of) + 1);
  return earlier.find(({ resources_id }) => resources_id === of.resources_id) ?? earlier[0] ?? null;
}

/** @param {any[]} items @param {string | undefined} name */
function named(items, name) {
  return items.find((item) => nameOf(item) === name || item.resources_id === name) ?? null;
}

/** @param {{items: any[], scores: Map<string, any>, left: any, right: any}} props */
function Versions({ items, scores, left, right }) {
  return html`<div class="card scroll" tabindex="0" role="region" aria-label="Versions">
    <table class="plain">
      <thead>
        <tr>
          <th scope="col" class="narrow">From</th><th scope="col" class="narrow">To</th><th scope="col">Version</th><th scope="col">Parent</th>
          <th scope="col">Reward</th><th scope="col">Stored</th>
        </tr>
      </thead>
      <tbody>
        ${items.map((item) => {
          const name = nameOf(item);
          const mark = scores.get(name);
          const parent = parentOf(items, item);
          return html`<tr key=${name} class=${item === right ? "current" : ""}>
            <td><${Choose} side="left" name=${name} on=${item === left} /></td>
            <td><${Choose} side="right" name=${name} on=${item === right} /></td>
            <td><a class="id" href=${link("rollouts", null, { resources: name })}>${visible(name)}</a></td>
            <td class="id dim">${parent ? visible(parent.resources_id === item.resources_id ? `v${parent.version}` : parent.resources_id) : "–"}</td>
            <td>
              <${Reward} value=${mark?.mean} />
              ${mark && html` <span class="dim">± ${score(interval(mark))}, ${count(mark.count)}</span>`}
            </td>
            <td><${Time} at=${item.update_time} /></td>
          </tr>`;
        })}
      </tbody>
    </table>
  </div>`;
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
        <h3>${visible(name)} <span class="dim">${visible((other ?? one).resource_type)}${other ? "" : ", left out"}</span></h3>
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

/** The same tasks under two versions, the most different first. @param {{left: any, right: any}} props */
function SameTasks({ left, right }) {
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
  return html`<section class="card" aria-labelledby="same-tasks">
    <h2 id="same-tasks">The same task under both <span class="dim">${count(loaded.data.length)} tasks, the most different first</span></h2>
    <table class="plain">
      <thead><tr><th scope="col">Input</th><th scope="col">From</th><th scope="col">To</th><th scope="col" class="narrow">Change</th></tr></thead>
      <tbody>
        ${loaded.data.slice(0, TASKS_SHOWN).map(
          (/** @type {any} */ { one, other, by }) => html`<tr>
            <td>${brief(one.input, 120)}</td>
            <td><${Outcome} rollout=${one} /></td>
            <td><${Outcome} rollout=${other} /></td>
            <td class="number ${by < 0 ? "bad" : "good"}">${by > 0 ? "+" : ""}${score(by)}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </section>`;
}

/** @param {{rollout: any}} props */
function Outcome({ rollout }) {
  return html`${rollout.reward === null ? html`<${Status} status=${rollout.status} />` : html`<${Reward} value=${rollout.reward} />`} <${RolloutLink} id=${rollout.rollout_id} />`;
}

/** @param {any[]} ones @param {any[]} others */
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
