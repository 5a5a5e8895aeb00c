// The attempts of a rollout on one line of time, each with why it ended.

import { now } from "../data.js";
import { html } from "../ui.js";
import { brief, duration } from "../words.js";
import { Status } from "./small.js";

/** @param {{attempts: any[], chosen?: string, onChoose: (id: string) => void}} props */
export function Attempts({ attempts, chosen, onChoose }) {
  if (!attempts.length) return null;
  const from = attempts[0].start_time;
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
        <span class="number dim" title="Attempt ${attempt.sequence_id}">${attempt.sequence_id}</span>
        <${Status} status=${attempt.status} />
        <span class="line" aria-hidden="true"><span class=${attempt.status} style=${{ left: `${left}%`, width: `max(3px, ${width}%)` }}></span></span>
        <span class="number dim">${duration(endOf(attempt) - attempt.start_time)}</span>
        <span class="why">${brief(attempt.metadata?.reason ?? "", 200)}</span>
      </button>`;
    })}
    ${
      attempts.length > 1 &&
      html`<div class="attempt scale dim" aria-hidden="true"><span></span><span></span><span class="ends"><span>0</span><span>${duration(to - from)}</span></span></div>`
    }
  </div>`;
}

/** @param {any} attempt */
function endOf({ end_time }) {
  return end_time ?? now.value;
}
