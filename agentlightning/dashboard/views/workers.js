// Who carries the rollouts out: signs of life, what each is at, how fast it is, and what its machine says of itself.

import { call } from "../api.js";
import { useLoaded } from "../data.js";
import { Empty, RolloutLink, Status, Time, Waiting } from "../parts/small.js";
import { html } from "../ui.js";
import { count, visible } from "../words.js";

const MOST = 500;

export function Workers() {
  const loaded = useLoaded(
    async (options) => {
      const [workers, summary] = await Promise.all([
        call("query_workers", { limit: MOST }, options),
        call("summary", {}, options),
      ]);
      return { workers, rates: summary.ended_per_minute_by_worker };
    },
    [],
    (news) => news.workers,
  );
  if (!loaded.data) return html`<${Waiting} of=${loaded} what="the workers" />`;
  const { workers, rates } = loaded.data;
  return html`<section class="page-view" aria-labelledby="title">
    <div class="toolbar"><h1 id="title">Workers</h1><span class="dim">${count(workers.total)} in all</span></div>
    ${
      workers.total === 0
        ? html`<${Empty} command=${"with runner.run_context(agent=…, store=store):\n    await runner.iter()"}>No worker has come yet. A runner is one:<//>`
        : html`<table class="plain stacked">
          <thead>
            <tr>
              <th scope="col">Worker</th><th scope="col">Status</th><th scope="col">Heartbeat</th>
              <th scope="col">At work on</th><th scope="col" class="number">Rollouts a minute</th><th scope="col">Host and process</th>
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
    <td data-name="Worker" class="id">${visible(worker.worker_id)}</td>
    <td data-name="Status"><${Status} status=${worker.status} /></td>
    <td data-name="Heartbeat"><${Time} at=${worker.last_heartbeat_time ?? worker.last_dequeue_time} /></td>
    <td data-name="At work on">${worker.current_rollout_id ? html`<${RolloutLink} id=${worker.current_rollout_id} />` : html`<span class="dim">nothing, since <${Time} at=${worker.last_idle_time} /></span>`}</td>
    <td data-name="Rollouts a minute" class="number">${rate === undefined ? "–" : rate.toFixed(1)}</td>
    <td data-name="Host and process">
      ${stats.length === 0 && html`<span class="dim">–</span>`}
      ${stats.map(([name, value]) => html`<span class="fact"><span class="dim">${visible(name)}</span> ${visible(typeof value === "string" ? value : JSON.stringify(value))}</span>`)}
    </td>
  </tr>`;
}
