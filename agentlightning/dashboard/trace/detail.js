// One span in full: the model call as a chat, the rewards, exceptions and attributes, and the span as JSON.

import { call } from "../api.js";
import { CopyButton, Loading, Reward, Value } from "../components/elements.js";
import { bytes, duration, exactTime, plural, prettyPrint, printable } from "../format.js";
import { useQuery } from "../query.js";
import { html, useLayoutEffect, useRef, useState } from "../ui.js";
import { Call } from "./chat.js";
import { isCall, isError, spanExceptions, spanRewards, spanSeconds, spanTitle } from "./spans.js";

const CUT = "agentlightning.cut";
const SHOWN_IN_CHAT =
  /^gen_ai\.(prompt|completion|input|output)\b|^agentlightning\.(request|response|logprobs)$|^exception\./;
const REDUNDANT = new Set(["agentlightning.rollout_id", "agentlightning.attempt_id", CUT]);

/** @param {{span: any}} props */
export function SpanDetail({ span }) {
  const cut = span.attributes[CUT];
  const [loadFull, setLoadFull] = useState(false);
  return html`<article class="detail" aria-label=${`Span ${spanTitle(span)}`}>
    <h2>${printable(spanTitle(span))} <span class="dim id">${printable(span.span_id)}</span></h2>
    <p class="facts">
      ${!isCall(span) && html`<span title=${exactTime(span.start_time ?? 0)}>${duration(spanSeconds(span))}</span>`}
      <span class="dim" title="Sequence number">#${span.sequence_id}</span>
      ${span.attributes["agentlightning.late"] && html`<span class="bad">received after the attempt had finished</span>`}
      ${cut && !loadFull && html`<button class="small" onClick=${() => setLoadFull(true)}>Load the full span (${bytes(cut)})</button>`}
    </p>
    ${cut && loadFull ? html`<${FullSpan} span=${span} />` : html`<${SpanBody} span=${span} />`}
  </article>`;
}

/** @param {{span: any}} props */
function FullSpan({ span: { rollout_id, attempt_id, span_id } }) {
  const query = useQuery((options) => call("query_spans", { rollout_id, attempt_id, span_id }, options), [span_id]);
  if (!query.data) return html`<${Loading} query=${query} name="the full span" />`;
  return html`<${SpanBody} span=${query.data.items[0]} />`;
}

/** @param {{span: any}} props */
function SpanBody({ span }) {
  const exceptions = spanExceptions(span);
  const attributes = Object.entries(span.attributes).filter(
    ([name]) => !REDUNDANT.has(name) && !(isCall(span) && SHOWN_IN_CHAT.test(name)),
  );
  return html`
    ${isError(span) && !exceptions.length && html`<p class="error-message">${printable(span.status.description ?? "Failed without a description.")}</p>`}
    ${exceptions.map((exception) => html`<${Exception} ...${exception} />`)}
    <${Rewards} span=${span} />
    ${isCall(span) && html`<${Call} span=${span} />`}
    ${attributes.length > 0 && html`<details open=${!isCall(span)}><summary>${plural(attributes.length, "attribute")}</summary><${Attributes} entries=${attributes} /></details>`}
    ${span.events.length > 0 && html`<details><summary>${plural(span.events.length, "event")}</summary><${Value} value=${span.events} label="events" /></details>`}
    <${SpanJson} span=${span} />
  `;
}

/** @param {{type: string, message: string, stack: string}} props */
export function Exception({ type, message, stack }) {
  return html`<div class="exception">
    <p class="bad"><strong>${printable(type)}</strong> ${printable(message)}</p>
    ${stack && html`<details open><summary>Stack trace</summary><${StackTrace} text=${stack} /></details>`}
  </div>`;
}

const MAX_STACK_LENGTH = 100_000;

/** A stack trace scrolled to its end, where the error is. @param {{text: string}} props */
function StackTrace({ text }) {
  const element = useRef(/** @type {HTMLElement | null} */ (null));
  useLayoutEffect(() => {
    if (element.current) element.current.scrollTop = element.current.scrollHeight;
  }, [text]);
  const end = text.slice(-MAX_STACK_LENGTH);
  return html`<pre class="value stack" tabindex="0" aria-label="Stack trace" ref=${element}>${end === text ? "" : "…"}${prettyPrint(end)}</pre>`;
}

/** @param {{span: any}} props */
function Rewards({ span }) {
  const rewards = spanRewards(span);
  if (!rewards.length) return null;
  return html`<dl class="pairs">
    ${rewards.map(({ name, value }) => html`<dt>reward ${printable(name)}</dt><dd><${Reward} value=${value} /></dd>`)}
  </dl>`;
}

/** @param {{entries: Array<[string, any]>}} props */
function Attributes({ entries }) {
  return html`<dl class="pairs">
    ${entries.map(([name, value]) => html`<dt>${printable(name)}</dt><dd><${Value} value=${value} label=${name} /></dd>`)}
  </dl>`;
}

/** @param {{span: any}} props */
function SpanJson({ span }) {
  const [open, setOpen] = useState(false);
  return html`<details onToggle=${(/** @type {any} */ event) => setOpen(event.target.open)}>
    <summary>JSON</summary>
    ${open && html`<${CopyButton} label="Copy JSON" name="JSON" text=${() => JSON.stringify(span, null, 2)} /><${Value} value=${span} label="span" />`}
  </details>`;
}
