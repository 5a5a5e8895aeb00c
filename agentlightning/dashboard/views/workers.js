// The workers, each with its heartbeat, current rollout, throughput, host and process.

import { call } from "../api.js";
import { EmptyState, Loading, RolloutLink, Status, Time } from "../components/elements.js";
import { plural, printable, roughDuration } from "../format.js";
import { now, useQuery } from "../query.js";
import { html } from "../ui.js";

const MAX_WORKERS = 500;

export function Workers() {
  const query = useQuery(
    async (options) => {
      const [workers, summary] = await Promise.all([
        call("query_workers", { limit: MAX_WORKERS }, options),
        call("summary", {}, options),
      ]);
      return { workers, rates: summary.ended_per_minute_by_worker };
    },
    [],
    (change) => change.workers,
  );
  if (!query.data) return html`<${Loading} query=${query} name="the workers" />`;
  const { workers, rates } = query.data;
  return html`<section class="page-view" aria-labelledby="title">
    <div class="toolbar"><h1 id="title">Workers</h1><span class="dim">${plural(workers.total, "worker")}</span></div>
    ${
      workers.total === 0
        ? html`<${EmptyState} command=${"with runner.run_context(agent=…, store=store):\n    await runner.iter()"}>No workers yet. Each runner is one worker:<//>`
        : html`<table class="plain stacked">
          <thead>
            <tr>
              <th scope="col">Worker</th><th scope="col">Status</th><th scope="col">Heartbeat</th>
              <th scope="col">Current rollout</th><th scope="col" class="number">Rollouts per minute</th><th scope="col">Host and process</th>
            </tr>
          </thead>
          <tbody>${workers.items.map((/** @type {any} */ worker) => html`<${Worker} key=${worker.worker_id} worker=${worker} rate=${rates[worker.worker_id]} />`)}</tbody>
        </table>`
    }
  </section>`;
}

/** @param {{worker: any, rate?: number}} props */
function Worker({ worker, rate }) {
  const stats = Object.entries(worker.heartbeat_stats ?? {});
  return html`<tr>
    <td data-name="Worker" class="id">${printable(worker.worker_id)}</td>
    <td data-name="Status"><${Status} status=${worker.status} /></td>
    <td data-name="Heartbeat"><${Time} at=${worker.last_heartbeat_time ?? worker.last_dequeue_time} /></td>
    <td data-name="Current rollout">${worker.current_rollout_id ? html`<${RolloutLink} id=${worker.current_rollout_id} />` : html`<${Idle} since=${worker.last_idle_time} />`}</td>
    <td data-name="Rollouts per minute" class="number">${rate === undefined ? "–" : rate.toFixed(1)}</td>
    <td data-name="Host and process">
      ${stats.length === 0 && html`<span class="dim">–</span>`}
      ${stats.map(([name, value]) => html`<span class="fact"><span class="dim">${printable(name)}</span> ${printable(typeof value === "string" ? value : JSON.stringify(value))}</span>`)}
    </td>
  </tr>`;
}

/** @param {{since: number | null}} props */
function Idle({ since }) {
  return html`<span class="dim">${since === null ? "Idle" : `Idle for ${roughDuration(now.value - since)}`}</span>`;
}
