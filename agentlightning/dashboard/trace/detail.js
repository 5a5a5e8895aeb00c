// One span in full: as a chat where it is a model's call, its rewards, its error, its attributes, its JSON.

import { call } from "../api.js";
import { useLoaded } from "../data.js";
import { Copy, Reward, Value, Waiting } from "../parts/small.js";
import { html, useLayoutEffect, useRef, useState } from "../ui.js";
import { bytes, duration, exactTime, full, plural, visible } from "../words.js";
import { Call } from "./chat.js";
import { exceptionsOf, isCall, isError, rewardsOf, secondsOf, titleOf } from "./spans.js";

const CUT = "agentlightning.cut";
const SHOWN_ELSEWHERE =
  /^gen_ai\.(prompt|completion|input|output)\b|^agentlightning\.(request|response|logprobs)$|^exception\./;
const KNOWN = new Set(["agentlightning.rollout_id", "agentlightning.attempt_id", CUT]);

/** @param {{span: any}} props */
export function Detail({ span }) {
  const cut = span.attributes[CUT];
  const [whole, setWhole] = useState(false);
  return html`<article class="detail" aria-label=${`Span ${titleOf(span)}`}>
    <h2>${visible(titleOf(span))} <span class="dim id">${visible(span.span_id)}</span></h2>
    <p class="facts">
      ${!isCall(span) && html`<span title=${exactTime(span.start_time ?? 0)}>${duration(secondsOf(span))}</span>`}
      <span class="dim">number ${span.sequence_id}</span>
      ${span.attributes["agentlightning.late"] && html`<span class="bad">came after its attempt had ended</span>`}
      ${cut && !whole && html`<button class="small" onClick=${() => setWhole(true)}>Fetch all of it (${bytes(cut)})</button>`}
    </p>
    ${cut && whole ? html`<${Fetched} span=${span} />` : html`<${Body} span=${span} />`}
  </article>`;
}

/** @param {{span: any}} props */
function Fetched({ span: { rollout_id, attempt_id, span_id } }) {
  const loaded = useLoaded((options) => call("query_spans", { rollout_id, attempt_id, span_id }, options), [span_id]);
  if (!loaded.data) return html`<${Waiting} of=${loaded} what="the whole span" />`;
  return html`<${Body} span=${loaded.data.items[0]} />`;
}

/** @param {{span: any}} props */
function Body({ span }) {
  const rest = Object.entries(span.attributes).filter(
    ([name]) => !KNOWN.has(name) && !(isCall(span) && SHOWN_ELSEWHERE.test(name)),
  );
  return html`
    ${isError(span) && !exceptionsOf(span).length && html`<p class="problem">${visible(span.status.description ?? "It failed, and does not say why.")}</p>`}
    ${exceptionsOf(span).map((exception) => html`<${Exception} ...${exception} />`)}
    <${Rewards} span=${span} />
    ${isCall(span) && html`<${Call} span=${span} />`}
    ${rest.length > 0 && html`<details open=${!isCall(span)}><summary>${plural(rest.length, "attribute")}</summary><${Attributes} entries=${rest} /></details>`}
    ${span.events.length > 0 && html`<details><summary>${plural(span.events.length, "event")}</summary><${Value} value=${span.events} label="events" /></details>`}
    <${Raw} span=${span} />
  `;
}

/** @param {{type: string, message: string, stack: string}} props */
export function Exception({ type, message, stack }) {
  return html`<div class="exception">
    <p class="bad"><strong>${visible(type)}</strong> ${visible(message)}</p>
    ${stack && html`<details open><summary>Stack</summary><${Stack} text=${stack} /></details>`}
  </div>`;
}

const LONGEST_STACK = 100_000;

/** A stack with its end in sight: that is where it went wrong. @param {{text: string}} props */
function Stack({ text }) {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  useLayoutEffect(() => {
    if (place.current) place.current.scrollTop = place.current.scrollHeight;
  }, [text]);
  const end = text.slice(-LONGEST_STACK);
  return html`<pre class="value stack" tabindex="0" aria-label="stack" ref=${place}>${end === text ? "" : "…"}${full(end)}</pre>`;
}

/** @param {{span: any}} props */
function Rewards({ span }) {
  const rewards = rewardsOf(span);
  if (!rewards.length) return null;
  return html`<dl class="pairs">
    ${rewards.map(({ name, value }) => html`<dt>reward ${visible(name)}</dt><dd><${Reward} value=${value} /></dd>`)}
  </dl>`;
}

/** @param {{entries: Array<[string, any]>}} props */
function Attributes({ entries }) {
  return html`<dl class="pairs">
    ${entries.map(([name, value]) => html`<dt>${visible(name)}</dt><dd><${Value} value=${value} label=${name} /></dd>`)}
  </dl>`;
}

/** @param {{span: any}} props */
function Raw({ span }) {
  const [open, setOpen] = useState(false);
  return html`<details onToggle=${(/** @type {any} */ event) => setOpen(event.target.open)}>
    <summary>JSON</summary>
    ${open && html`<${Copy} label="Copy JSON" text=${() => JSON.stringify(span, null, 2)} /><${Value} value=${span} label="span" />`}
  </details>`;
}
