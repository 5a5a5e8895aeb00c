// The progress of a run at a glance: rewards, statuses, errors and workers.

import { readOnly } from "../changes.js";
import { Chart, ciHalfWidth, poolScores } from "../components/chart.js";
import { EmptyState, Loading, ResourcesLink, Reward } from "../components/elements.js";
import { count, duration, plural, printable, score, statusLabel } from "../format.js";
import { useOperation } from "../query.js";
import { link, navigate } from "../route.js";
import { html, useMemo, useState } from "../ui.js";
import { STATUSES } from "./rollouts.js";

const NO_MODE = "no mode";

export function Overview() {
  const query = useOperation("summary", {}, () => true);
  if (!query.data) return html`<${Loading} query=${query} name="the overview" />`;
  const summary = query.data;
  const total = sum(summary.rollouts);
  if (!total) {
    return html`<section class="overview">
      <h1>Overview</h1>
      <${EmptyState} command="agl demo">No rollouts in this store yet. The demo compares five prompts on this machine:<//>
    </section>`;
  }
  return html`<section class="overview" aria-labelledby="title">
    <h1 id="title" class="aside">Overview</h1>
    <${Tiles} summary=${summary} total=${total} />
    <${StatusBar} rollouts=${summary.rollouts} total=${total} />
    <div class="columns">
      <div class="stack"><${RewardOverTime} summary=${summary} /><${Errors} summary=${summary} /></div>
      <div class="stack"><${RewardByResources} summary=${summary} /><${Workers} summary=${summary} /></div>
    </div>
  </section>`;
}

const NO_RATE = { ended_per_minute: null, seconds_left: null };

/** @param {{summary: any, total: number}} props */
function Tiles({ summary, total }) {
  const { rollouts } = summary;
  const completed = sumOf(rollouts, ["succeeded", "failed", "cancelled"]);
  const queued = sumOf(rollouts, ["queuing", "requeuing"]);
  const running = sumOf(rollouts, ["preparing", "running"]);
  // A store opened read-only does not have active workers, so its most recent rate says nothing about the present.
  const { ended_per_minute: rate, seconds_left: left } = readOnly.value ? NO_RATE : summary;
  const pooled = summary.steps.length ? poolScores(summary.steps) : null;
  const noEstimate = queued + running ? "no active workers" : "nothing queued";
  return html`<dl class="tiles">
    <${Tile} name="Mean reward" value=${pooled ? score(pooled.mean) : "–"} more=${pooled ? `± ${score(ciHalfWidth(pooled))} (${plural(pooled.count, "reward")})` : "no rewards yet"} />
    <${Tile} name="Completed" value=${count(completed)} more=${`of ${count(total)}`} />
    <${Tile} name="Queued" value=${count(queued)} more=${running ? `${count(running)} running` : "none running"} />
    <${Tile} name="Rate" value=${rate === null ? "–" : formatRate(rate)} more=${rate === null ? "no recent completions" : "per minute"} />
    <${Tile} name="Time left" value=${duration(left)} more=${left === null ? noEstimate : "at the current rate"} />
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
function StatusBar({ rollouts, total }) {
  const present = STATUSES.filter((status) => rollouts[status]);
  return html`<div class="statuses">
    <div class="share" aria-hidden="true">
      ${present.map((status) => html`<span class=${status} style=${{ flexGrow: rollouts[status] / total }}></span>`)}
    </div>
    <ul>
      ${present.map(
        (status) =>
          html`<li><a href=${link("rollouts", null, { status })}><span class="dot ${status}" aria-hidden="true"></span> ${statusLabel(status)} <strong class="number">${count(rollouts[status])}</strong></a></li>`,
      )}
    </ul>
  </div>`;
}

/** @param {{summary: any}} props */
function RewardOverTime({ summary }) {
  const modes = [...new Set(summary.steps.map((/** @type {any} */ step) => step.mode ?? NO_MODE))].sort();
  const [hidden, setHidden] = useState(/** @type {Set<string>} */ (new Set()));
  const toggle = (/** @type {string} */ mode) =>
    setHidden((before) => {
      const next = new Set(before);
      if (!next.delete(mode)) next.add(mode);
      return next;
    });
  const series = useMemo(
    () => seriesByMode(summary.steps, modes).filter(({ name }) => !hidden.has(name)),
    [summary, hidden],
  );
  const positionName = (/** @type {number} */ at) => `Up to rollout ${count(at)}:`;
  return html`<section class="card" aria-labelledby="reward-over-time">
    <h2 id="reward-over-time">Reward over time</h2>
    ${
      modes.length > 1 &&
      html`<p class="actions" role="group" aria-label="Modes">
        ${modes.map((mode, n) => html`<button class="small" aria-pressed=${!hidden.has(mode)} onClick=${() => toggle(mode)}><span class="swatch colour-${n % 5}" aria-hidden="true"></span> ${mode}</button>`)}
      </p>`
    }
    ${
      summary.steps.length
        ? html`<${Chart}
            label="Mean reward over time"
            hint="Mean of consecutive rollouts, with its 95 % CI."
            ...${{ series, positionName }}
            xName="Rollouts in creation order"
          />`
        : html`<${EmptyState} command="agl.emit_reward(1.0)">No rewards yet. Return the reward from the agent, or emit it:<//>`
    }
  </section>`;
}

/** @param {{summary: any}} props */
function RewardByResources({ summary }) {
  const versions = useMemo(() => scoresByVersion(summary.versions), [summary]);
  const series = useMemo(
    () => [{ name: "reward", points: versions.map((version, index) => ({ ...version, at: index + 1 })) }],
    [versions],
  );
  const openVersion = (/** @type {number} */ at) => {
    const version = versions[at - 1];
    if (version) navigate(link("resources", null, { right: versionName(version) }));
  };
  const positionName = (/** @type {number} */ at) =>
    `No. ${at}, ${versions[at - 1] ? versionName(versions[at - 1]) : ""}:`;
  return html`<section class="card" aria-labelledby="reward-by-resources">
    <h2 id="reward-by-resources">Reward by resources</h2>
    ${
      versions.length
        ? html`<${Chart}
              label="Mean reward by resources version"
              hint="Mean of each version, with its 95 % CI. Click a version to open it."
              ...${{ series, positionName, tickName: String, onPick: openVersion, line: false }}
              xName="Versions in creation order"
            />
            <${BestVersions} versions=${versions} />`
        : html`<p class="dim">No rollout with a reward used versioned resources.</p>`
    }
  </section>`;
}

const TOP_ROWS = 5;
const ERRORS_SHOWN = 8;

/** @param {{versions: any[]}} props */
function BestVersions({ versions }) {
  const best = versions.map((version, index) => ({ ...version, number: index + 1 })).sort((a, b) => b.mean - a.mean);
  return html`<table class="plain">
    <thead><tr><th scope="col" class="narrow number">No.</th><th scope="col">Best versions</th><th scope="col">Mean reward</th><th scope="col" class="number">Rewards</th></tr></thead>
    <tbody>
      ${best.slice(0, TOP_ROWS).map(
        (version) => html`<tr>
          <td class="number">${version.number}</td>
          <td><${ResourcesLink} id=${version.resources_id} version=${version.version} /></td>
          <td><${Reward} value=${version.mean} /> <span class="dim">± ${score(ciHalfWidth(version))}</span></td>
          <td class="number"><a href=${link("rollouts", null, { resources: versionName(version) })}>${count(version.count)}</a></td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}

/** @param {{summary: any}} props */
function Errors({ summary: { errors, rollouts } }) {
  const grouped = errors.reduce((/** @type {number} */ total, /** @type {any} */ error) => total + error.count, 0);
  const failed = rollouts.failed ?? 0;
  const most = errors[0]?.count ?? 1;
  return html`<section class="card" aria-labelledby="errors">
    <h2 id="errors">Errors ${failed > grouped && html`<span class="dim">newest ${count(grouped)} of ${count(failed)} failed rollouts</span>`}</h2>
    ${
      errors.length === 0
        ? html`<p class="dim">No failed rollouts.</p>`
        : html`<ul class="errors">
          ${errors.slice(0, ERRORS_SHOWN).map(
            (/** @type {any} */ { message, count: frequency, rollout_id }) => html`<li>
              <span class="number">${count(frequency)} ×</span>
              <span class="message">
                <a class="bad" href=${link("rollouts", rollout_id)} title="Open the newest rollout with this error">${printable(message)}</a>
                <span class="frequency" aria-hidden="true" style=${{ width: `${(100 * frequency) / most}%` }}></span>
              </span>
            </li>`,
          )}
        </ul>`
    }
    ${errors.length > ERRORS_SHOWN && html`<p class="dim">and ${plural(errors.length - ERRORS_SHOWN, "less frequent error")}</p>`}
    ${errors.length > 0 && html`<p><a href=${link("rollouts", null, { status: "failed" })}>All failed rollouts</a></p>`}
  </section>`;
}

/** @param {{summary: any}} props */
function Workers({ summary: { workers, ended_per_minute_by_worker: rates } }) {
  const total = sum(workers);
  const fastest = Object.entries(rates).sort(([, a], [, b]) => b - a);
  return html`<section class="card" aria-labelledby="workers">
    <h2 id="workers">Workers</h2>
    ${
      total === 0
        ? html`<p class="dim">No workers yet. Each runner is one worker.</p>`
        : html`<p>
          ${plural(total, "worker")}:
          ${["busy", "idle", "unknown"].filter((status) => workers[status]).map((status) => html` <span class="status ${status}">${count(workers[status])} ${status}</span>`)}
        </p>`
    }
    ${workers.unknown > 0 && html`<p class="bad">${plural(workers.unknown, "worker")} without a recent heartbeat.</p>`}
    ${
      fastest.length > 0 &&
      html`<table class="plain">
        <thead><tr><th scope="col">Worker</th><th scope="col" class="number">Rollouts per minute</th></tr></thead>
        <tbody>
          ${fastest.slice(0, TOP_ROWS).map(([worker, rate]) => html`<tr><td class="id">${printable(worker)}</td><td class="number">${formatRate(rate)}</td></tr>`)}
        </tbody>
      </table>`
    }
    <p><a href=${link("workers")}>All workers</a></p>
  </section>`;
}

/** @param {any} version */
export function versionName({ resources_id, version }) {
  return `${resources_id}@${version}`;
}

/** Return one score for each version, pooled over all modes. @param {any[]} scores */
export function scoresByVersion(scores) {
  const groups = Map.groupBy(scores, versionName);
  return [...groups.values()].map((group) => ({ ...group[0], ...poolScores(group) }));
}

/**
 * Return one series for each mode. The colour of a series does not depend on which other modes are shown.
 * @param {any[]} steps
 * @param {string[]} modes
 */
function seriesByMode(steps, modes) {
  return modes.map((name, colour) => {
    const own = steps.filter(({ mode }) => (mode ?? NO_MODE) === name);
    return { name, colour, points: own.map((step) => ({ ...step, at: step.rollout })) };
  });
}

/** @param {number} perMinute */
function formatRate(perMinute) {
  return perMinute >= 10 ? count(Math.round(perMinute)) : perMinute.toFixed(1);
}

/** @param {Record<string, number>} counts @param {string[]} names */
function sumOf(counts, names) {
  return names.reduce((total, name) => total + (counts[name] ?? 0), 0);
}

/** @param {Record<string, number>} counts */
function sum(counts) {
  return sumOf(counts, Object.keys(counts));
}
