// How the run is going, at a glance: rewards, what is done and what is left, what goes wrong, who works.

import { useCall } from "../data.js";
import { Chart, interval, together } from "../parts/chart.js";
import { Empty, ResourcesLink, Reward, Waiting } from "../parts/small.js";
import { go, link } from "../route.js";
import { html, useMemo, useState } from "../ui.js";
import { count, duration, plural, score, visible } from "../words.js";
import { STATUSES } from "./rollouts.js";

const NO_MODE = "no mode";

export function Overview() {
  const loaded = useCall("summary", {}, () => true);
  if (!loaded.data) return html`<${Waiting} of=${loaded} what="the overview" />`;
  const summary = loaded.data;
  const total = sum(summary.rollouts);
  if (!total) {
    return html`<section class="overview">
      <h1>Overview</h1>
      <${Empty} command="agl demo">Nothing has run in this store yet. This finds the best of five prompts on this machine:<//>
    </section>`;
  }
  return html`<section class="overview" aria-labelledby="title">
    <h1 id="title" class="aside">Overview</h1>
    <${Tiles} summary=${summary} total=${total} />
    <${Statuses} rollouts=${summary.rollouts} total=${total} />
    <${Rewards} summary=${summary} />
    <div class="columns">
      <${Errors} errors=${summary.errors} />
      <${Workers} summary=${summary} />
    </div>
  </section>`;
}

/** @param {{summary: any, total: number}} props */
function Tiles({ summary, total }) {
  const { rollouts } = summary;
  const ended = amount(rollouts, ["succeeded", "failed", "cancelled"]);
  const waiting = amount(rollouts, ["queuing", "requeuing"]);
  const running = amount(rollouts, ["preparing", "running"]);
  const all = summary.steps.length ? together(summary.steps) : null;
  return html`<dl class="tiles">
    <${Tile} name="Mean reward" value=${all ? score(all.mean) : "–"} more=${all ? `± ${score(interval(all))}, ${count(all.count)} rewards` : "none given yet"} />
    <${Tile} name="Ended" value=${count(ended)} more=${`of ${count(total)}`} />
    <${Tile} name="In the queue" value=${count(waiting)} more=${running ? `${count(running)} running` : "none running"} />
    <${Tile}
      name="Rate"
      value=${summary.ended_per_minute === null ? "–" : perMinute(summary.ended_per_minute)}
      more=${summary.ended_per_minute === null ? "nothing is under way" : "rollouts a minute"}
    />
    <${Tile} name="Time left" value=${duration(summary.seconds_left)} more=${summary.seconds_left === null ? "" : "at this rate"} />
  </dl>`;
}

/** @param {{name: string, value: string, more: string}} props */
function Tile({ name, value, more }) {
  return html`<div class="tile">
    <dt>${name}</dt>
    <dd><span class="figure number">${value}</span> <span class="dim">${more}</span></dd>
  </div>`;
}

/** @param {{rollouts: Record<string, number>, total: number}} props */
function Statuses({ rollouts, total }) {
  const present = STATUSES.filter((status) => rollouts[status]);
  return html`<div class="statuses">
    <div class="share" aria-hidden="true">
      ${present.map((status) => html`<span class=${status} style=${{ flexGrow: rollouts[status] / total }}></span>`)}
    </div>
    <ul>
      ${present.map(
        (status) =>
          html`<li><a href=${link("rollouts", null, { status })}><span class="dot ${status}" aria-hidden="true"></span> ${status} <strong class="number">${count(rollouts[status])}</strong></a></li>`,
      )}
    </ul>
  </div>`;
}

/** @param {{summary: any}} props */
function Rewards({ summary }) {
  const modes = [...new Set(summary.steps.map((/** @type {any} */ step) => step.mode ?? NO_MODE))].sort();
  const [off, setOff] = useState(/** @type {Set<string>} */ (new Set()));
  const toggle = (/** @type {string} */ mode) =>
    setOff((before) => {
      const next = new Set(before);
      if (!next.delete(mode)) next.add(mode);
      return next;
    });
  const shown = (/** @type {any} */ one) => !off.has(one.mode ?? NO_MODE);
  const steps = useMemo(() => seriesByMode(summary.steps.filter(shown), (step) => step.rollout), [summary, off]);
  const versions = useMemo(() => byVersion(summary.versions.filter(shown)), [summary, off]);
  const points = useMemo(
    () => [{ name: "reward", points: versions.map((version, at) => ({ ...version, at: at + 1 })) }],
    [versions],
  );
  const pick = (/** @type {number} */ at) => {
    const version = versions[at - 1];
    if (version) go(link("rollouts", null, { resources: nameOf(version) }));
  };
  if (!summary.steps.length)
    return html`<${Empty} command="agl.emit_reward(1.0)">No rewards yet. An agent returns its reward, or says:<//>`;
  return html`<div class="columns">
    <section class="card" aria-labelledby="by-step">
      <h2 id="by-step">Reward by step</h2>
      ${
        modes.length > 1 &&
        html`<p class="actions">
        ${modes.map((mode) => html`<button class="small" aria-pressed=${!off.has(mode)} onClick=${() => toggle(mode)}>${mode}</button>`)}
      </p>`
      }
      <${Chart} label="Mean reward by step" series=${steps} xName="rollouts made" />
    </section>
    <section class="card" aria-labelledby="by-version">
      <h2 id="by-version">Reward by resources</h2>
      <${Chart} label="Mean reward by version of the resources" series=${points} xName="version, oldest first" line=${false} tickName=${String} onPick=${pick} />
      <${Best} versions=${versions} />
    </section>
  </div>`;
}

const BEST_SHOWN = 5;

/** @param {{versions: any[]}} props */
function Best({ versions }) {
  const best = versions.map((version, at) => ({ ...version, at: at + 1 })).sort((one, other) => other.mean - one.mean);
  return html`<table class="plain">
    <thead><tr><th scope="col" class="narrow">No.</th><th scope="col">Best</th><th scope="col">Mean reward</th><th scope="col">Rollouts</th></tr></thead>
    <tbody>
      ${best.slice(0, BEST_SHOWN).map(
        (version) => html`<tr>
          <td class="number">${version.at}</td>
          <td><${ResourcesLink} id=${version.resources_id} version=${version.version} /></td>
          <td><${Reward} value=${version.mean} /> <span class="dim">± ${score(interval(version))}</span></td>
          <td><a class="number" href=${link("rollouts", null, { resources: nameOf(version) })}>${count(version.count)}</a></td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}

/** @param {{errors: any[]}} props */
function Errors({ errors }) {
  return html`<section class="card" aria-labelledby="errors">
    <h2 id="errors">What goes wrong</h2>
    ${
      errors.length === 0
        ? html`<p class="dim">No rollout has failed.</p>`
        : html`<ul class="errors">
          ${errors.map(
            ({ message, count: many, rollout_id }) => html`<li>
              <span class="number">${count(many)} ×</span>
              <a class="bad" href=${link("rollouts", rollout_id)}>${visible(message)}</a>
            </li>`,
          )}
        </ul>`
    }
    ${errors.length > 0 && html`<p><a href=${link("rollouts", null, { status: "failed" })}>All that failed</a></p>`}
  </section>`;
}

/** @param {{summary: any}} props */
function Workers({ summary }) {
  const { workers } = summary;
  const total = sum(workers);
  return html`<section class="card" aria-labelledby="workers">
    <h2 id="workers">Workers</h2>
    ${
      total === 0
        ? html`<p class="dim">No worker has come yet; a runner is one.</p>`
        : html`<p>
          ${plural(total, "worker")}:
          ${["busy", "idle", "unknown"].filter((status) => workers[status]).map((status) => html` <span class="status ${status}">${count(workers[status])} ${status}</span>`)}
        </p>`
    }
    ${workers.unknown > 0 && html`<p class="bad">${plural(workers.unknown, "worker")} gave no sign of life for a while.</p>`}
    <p><a href=${link("workers")}>All workers</a></p>
  </section>`;
}

/** @param {any} version */
export function nameOf({ resources_id, version }) {
  return `${resources_id}@${version}`;
}

/** One score for each version, whatever the mode. @param {any[]} scores */
export function byVersion(scores) {
  const groups = Map.groupBy(scores, nameOf);
  return [...groups.values()].map((group) => ({ ...group[0], ...together(group) }));
}

/** @param {any[]} points @param {(point: any) => number} place */
function seriesByMode(points, place) {
  const groups = Map.groupBy(points, (point) => point.mode ?? NO_MODE);
  return [...groups]
    .sort()
    .map(([name, group]) => ({ name, points: group.map((point) => ({ ...point, at: place(point) })) }));
}

/** @param {number} rate */
function perMinute(rate) {
  return rate >= 10 ? count(Math.round(rate)) : rate.toFixed(1);
}

/** @param {Record<string, number>} counts @param {string[]} names */
function amount(counts, names) {
  return names.reduce((total, name) => total + (counts[name] ?? 0), 0);
}

/** @param {Record<string, number>} counts */
function sum(counts) {
  return Object.values(counts).reduce((total, one) => total + one, 0);
}
