// The attempts of a rollout on one line of time, each with why it ended.

import { now } from "../data.js";
import { html } from "../ui.js";
import { brief, duration } from "../words.js";
import { Status } from "./small.js";

/** @param {{rollout: any, attempts: any[], chosen?: string, onChoose: (id: string) => void}} props */
export function Attempts({ rollout, attempts, chosen, onChoose }) {
  if (!attempts.length) return null;
  const from = rollout.start_time;
  const to = Math.max(...attempts.map(endOf), from + 0.001);
  return html`<div class="attempts" role="group" aria-label="Attempts">
    ${attempts.map((attempt) => {
      const left = (100 * (attempt.start_time - from)) / (to - from);
      const width = (100 * (endOf(attempt) - attempt.start_time)) / (to - from);
      return html`<button
        key=${attempt.attempt_id}
        class="attempt"
        aria-pressed=${attempt.attempt_id === chosen}
        onClick=${() => onChoose(attempt.attempt_id)}
      >
        <span class="number">${attempt.sequence_id}</span>
        <${Status} status=${attempt.status} />
        <span class="line" aria-hidden="true"><span class=${attempt.status} style=${{ left: `${left}%`, width: `max(3px, ${width}%)` }}></span></span>
        <span class="dim">${duration(endOf(attempt) - attempt.start_time)}</span>
        <span class="why">${brief(attempt.metadata?.reason ?? "", 200)}</span>
      </button>`;
    })}
  </div>`;
}

/** @param {any} attempt */
function endOf({ end_time }) {
  return end_time ?? now.value;
}
