// How the run is going, at a glance: rewards, what is done and what is left, what goes wrong, who works.

import { useCall } from "../data.js";
import { unchangeable } from "../live.js";
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
    <div class="columns">
      <div class="stack"><${Steps} summary=${summary} /><${Errors} summary=${summary} /></div>
      <div class="stack"><${Versions} summary=${summary} /><${Workers} summary=${summary} /></div>
    </div>
  </section>`;
}

const NOBODY = { ended_per_minute: null, seconds_left: null };

/** @param {{summary: any, total: number}} props */
function Tiles({ summary, total }) {
  const { rollouts } = summary;
  const ended = amount(rollouts, ["succeeded", "failed", "cancelled"]);
  const waiting = amount(rollouts, ["queuing", "requeuing"]);
  const running = amount(rollouts, ["preparing", "running"]);
  // In a file that is only looked at, nobody works, whatever its last minute was like.
  const { ended_per_minute: rate, seconds_left: left } = unchangeable.value ? NOBODY : summary;
  const all = summary.steps.length ? together(summary.steps) : null;
  return html`<dl class="tiles">
    <${Tile} name="Mean reward" value=${all ? score(all.mean) : "–"} more=${all ? `± ${score(interval(all))} of ${plural(all.count, "reward")}` : "none given yet"} />
    <${Tile} name="Ended" value=${count(ended)} more=${`of ${count(total)}`} />
    <${Tile} name="In the queue" value=${count(waiting)} more=${running ? `${count(running)} running` : "none running"} />
    <${Tile}
      name="Rate"
      value=${rate === null ? "–" : perMinute(rate)}
      more=${rate === null ? "nothing is under way" : "a minute"}
    />
    <${Tile} name="Time left" value=${duration(left)} more=${left === null ? (waiting + running ? "nobody is at it" : "nothing to do") : "at this rate"} />
  </dl>`;
}

/** @param {{name: string, value: string, more: string}} props */
function Tile({ name, value, more }) {
  return html`<div class="tile">
    <dt>${name}</dt>
    <dd><span class="figure number">${value}</span> <span class="more dim">${more}</span></dd>
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
function Steps({ summary }) {
  const modes = [...new Set(summary.steps.map((/** @type {any} */ step) => step.mode ?? NO_MODE))].sort();
  const [off, setOff] = useState(/** @type {Set<string>} */ (new Set()));
  const toggle = (/** @type {string} */ mode) =>
    setOff((before) => {
      const next = new Set(before);
      if (!next.delete(mode)) next.add(mode);
      return next;
    });
  const series = useMemo(() => byMode(summary.steps, modes).filter(({ name }) => !off.has(name)), [summary, off]);
  const place = (/** @type {number} */ at) => `Up to rollout ${count(at)}:`;
  return html`<section class="card" aria-labelledby="by-step">
    <h2 id="by-step">Reward by step</h2>
    ${
      modes.length > 1 &&
      html`<p class="actions" role="group" aria-label="Modes">
        ${modes.map((mode, n) => html`<button class="small" aria-pressed=${!off.has(mode)} onClick=${() => toggle(mode)}><span class="swatch colour-${n % 5}" aria-hidden="true"></span> ${mode}</button>`)}
      </p>`
    }
    ${
      summary.steps.length
        ? html`<${Chart}
            label="Mean reward by step"
            hint="Each point is the mean of the rollouts made one after the other; in the band it lies 19 times out of 20."
            ...${{ series, placeName: place }}
            xName="rollouts, in the order they were made"
          />`
        : html`<${Empty} command="agl.emit_reward(1.0)">No rewards yet. An agent returns its reward, or says:<//>`
    }
  </section>`;
}

/** @param {{summary: any}} props */
function Versions({ summary }) {
  const versions = useMemo(() => byVersion(summary.versions), [summary]);
  const points = useMemo(
    () => [{ name: "reward", points: versions.map((version, at) => ({ ...version, at: at + 1 })) }],
    [versions],
  );
  const pick = (/** @type {number} */ at) => {
    const version = versions[at - 1];
    if (version) go(link("resources", null, { right: nameOf(version) }));
  };
  const place = (/** @type {number} */ at) => `No. ${at}, ${versions[at - 1] ? nameOf(versions[at - 1]) : ""}:`;
  return html`<section class="card" aria-labelledby="by-version">
    <h2 id="by-version">Reward by resources</h2>
    ${
      versions.length
        ? html`<${Chart}
              label="Mean reward by version of the resources"
              hint="Each version's mean, and the interval in which it lies 19 times out of 20. Click one to see what it says."
              ...${{ series: points, placeName: place, tickName: String, onPick: pick, line: false }}
              xName="versions, in the order they were stored"
            />
            <${Best} versions=${versions} />`
        : html`<p class="dim">No rollout with a reward names the version of the resources that it used.</p>`
    }
  </section>`;
}

const BEST_SHOWN = 5;
const ERRORS_SHOWN = 8;

/** @param {{versions: any[]}} props */
function Best({ versions }) {
  const best = versions.map((version, at) => ({ ...version, at: at + 1 })).sort((one, other) => other.mean - one.mean);
  return html`<table class="plain">
    <thead><tr><th scope="col" class="narrow number">No.</th><th scope="col">Best</th><th scope="col">Mean reward</th><th scope="col" class="number">Rewards</th></tr></thead>
    <tbody>
      ${best.slice(0, BEST_SHOWN).map(
        (version) => html`<tr>
          <td class="number">${version.at}</td>
          <td><${ResourcesLink} id=${version.resources_id} version=${version.version} /></td>
          <td><${Reward} value=${version.mean} /> <span class="dim">± ${score(interval(version))}</span></td>
          <td class="number"><a href=${link("rollouts", null, { resources: nameOf(version) })}>${count(version.count)}</a></td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}

/** @param {{summary: any}} props */
function Errors({ summary: { errors, rollouts } }) {
  const grouped = sum(
    Object.fromEntries(errors.map((/** @type {any} */ error, /** @type {number} */ n) => [n, error.count])),
  );
  const failed = rollouts.failed ?? 0;
  const most = errors[0]?.count ?? 1;
  return html`<section class="card" aria-labelledby="errors">
    <h2 id="errors">What goes wrong ${failed > grouped && html`<span class="dim">the newest ${count(grouped)} of ${count(failed)} that failed</span>`}</h2>
    ${
      errors.length === 0
        ? html`<p class="dim">No rollout has failed.</p>`
        : html`<ul class="errors">
          ${errors.slice(0, ERRORS_SHOWN).map(
            (/** @type {any} */ { message, count: many, rollout_id }) => html`<li>
              <span class="number">${count(many)} ×</span>
              <span class="message">
                <a class="bad" href=${link("rollouts", rollout_id)} title="The newest of them">${visible(message)}</a>
                <span class="often" aria-hidden="true" style=${{ width: `${(100 * many) / most}%` }}></span>
              </span>
            </li>`,
          )}
        </ul>`
    }
    ${errors.length > ERRORS_SHOWN && html`<p class="dim">and ${plural(errors.length - ERRORS_SHOWN, "other message")}, each of them rarer.</p>`}
    ${errors.length > 0 && html`<p><a href=${link("rollouts", null, { status: "failed" })}>All that failed</a></p>`}
  </section>`;
}

/** @param {{summary: any}} props */
function Workers({ summary: { workers, ended_per_minute_by_worker: rates } }) {
  const total = sum(workers);
  const fastest = Object.entries(rates).sort(([, one], [, other]) => other - one);
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
    ${
      fastest.length > 0 &&
      html`<table class="plain">
        <thead><tr><th scope="col">At work</th><th scope="col" class="number">Rollouts a minute</th></tr></thead>
        <tbody>
          ${fastest.slice(0, BEST_SHOWN).map(([worker, rate]) => html`<tr><td class="id">${visible(worker)}</td><td class="number">${perMinute(rate)}</td></tr>`)}
        </tbody>
      </table>`
    }
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

/** A curve for each mode, in the colour that it has whichever others are shown. @param {any[]} steps @param {string[]} modes */
function byMode(steps, modes) {
  return modes.map((name, colour) => {
    const own = steps.filter(({ mode }) => (mode ?? NO_MODE) === name);
    return { name, colour, points: own.map((step) => ({ ...step, at: step.rollout })) };
  });
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
