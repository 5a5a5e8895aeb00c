// A model's call as a chat: who said what, which tools were asked for and what they gave.

import { Copy, Value } from "../parts/small.js";
import { html, useState } from "../ui.js";
import { bytes, count, duration, full, money, plural, visible } from "../words.js";
import { asCurl, asPython, callOf, textOf } from "./calls.js";
import { secondsOf } from "./spans.js";

/** @typedef {import("./calls.js").Message} Message */

/** One call in full. @param {{span: any, after?: number}} props `after`: that many messages were shown before */
export function Call({ span, after = 0 }) {
  const call = callOf(span);
  const earlier = Math.min(after, call.asked.length);
  return html`<div class="call">
    <${Facts} span=${span} call=${call} />
    ${earlier > 0 && html`<p class="dim">… ${earlier} earlier messages, as above</p>`}
    <ol class="chat">
      ${call.asked.slice(earlier).map((message) => html`<${Said} message=${message} />`)}
      ${call.answered.map((message) => html`<${Said} message=${message} answer=${true} />`)}
    </ol>
    ${call.logprobs.length > 0 && html`<${Tokens} tokens=${call.logprobs} />`}
    ${
      call.tools.length > 0 &&
      html`<details><summary>${plural(call.tools.length, "tool")} offered</summary><${Value} value=${call.tools} label="tools" /></details>`
    }
    <div class="actions">
      <${Copy} label="Copy as curl" text=${() => asCurl(call)} />
      <${Copy} label="Copy as Python" text=${() => asPython(call)} />
    </div>
  </div>`;
}

/** All calls of an attempt as the conversation they are: what was said before is not said again. @param {{spans: any[]}} props */
export function Conversation({ spans }) {
  /** @type {string[]} */
  let before = [];
  return html`<div class="conversation">
    ${spans.map((span) => {
      const call = callOf(span);
      const asked = call.asked.map((message) => JSON.stringify([message.role, message.parts.map(textOf)]));
      const same = asked.findIndex((message, index) => message !== before[index]);
      const after = same < 0 ? Math.min(asked.length, before.length) : same;
      before = [...asked, ...call.answered.map((message) => JSON.stringify([message.role, message.parts.map(textOf)]))];
      return html`<${Call} key=${span.span_id} span=${span} after=${after} />`;
    })}
  </div>`;
}

/** @param {{span: any, call: ReturnType<typeof callOf>}} props */
function Facts({ span, call }) {
  const { asked, answered } = call.tokens;
  const settings = Object.entries(call.settings).map(([name, value]) => `${name} ${value}`);
  const seconds = secondsOf(span);
  return html`<p class="facts">
    <strong>${visible(call.model)}</strong>
    <span title="latency">${duration(seconds)}</span>
    ${asked !== null && html`<span>${plural(asked, "token")} in</span>`}
    ${answered !== null && html`<span>${count(answered)} out</span>`}
    ${answered && seconds && html`<span>${count(Math.round(answered / seconds))} tokens/s</span>`}
    ${call.cost !== null && html`<span>${money(Number(call.cost))}</span>`}
    ${call.streamed && html`<span>streamed</span>`}
    ${settings.map((setting) => html`<span class="dim">${visible(setting)}</span>`)}
    ${call.incomplete && html`<span class="bad">ended before its end</span>`}
    ${call.captureError && html`<span class="bad">${visible(call.captureError)}</span>`}
  </p>`;
}

/** @param {{message: Message, answer?: boolean}} props */
function Said({ message, answer = false }) {
  return html`<li class="said ${message.role} ${answer ? "answer" : ""}">
    <span class="role">${visible(message.role)}</span>
    <div class="parts">
      ${message.parts.length === 0 && html`<span class="dim">(nothing)</span>`}
      ${message.parts.map((part) => html`<${Part} part=${part} />`)}
      ${message.finish && message.finish !== "stop" && html`<span class="dim">ended by ${visible(message.finish)}</span>`}
    </div>
  </li>`;
}

/** @param {{part: import("./calls.js").Part}} props */
function Part({ part }) {
  switch (part.type) {
    case "text":
      return html`<${Text} text=${textOf(part)} />`;
    case "reasoning":
      return html`<details class="thought"><summary>thought</summary><${Text} text=${textOf(part)} /></details>`;
    case "tool_call":
      return html`<div class="tool">
        <code>${visible(part.name ?? "tool")}</code><span class="dim"> asked for ${visible(part.id ?? "")}</span>
        <${Value} value=${part.arguments} label="arguments" />
      </div>`;
    case "tool_call_response":
      return html`<div class="tool"><span class="dim">gave, for ${visible(part.id ?? "")} </span><${Value} value=${part.response} label="result" /></div>`;
    default:
      return html`<div class="tool"><span class="dim">${visible(part.type)}</span><${Value} value=${part} label=${part.type} /></div>`;
  }
}

const LONG = 1_500;
const SHOWN_OF_LONG = 900;

/** A text, its beginning first where it is so long that it would hide what was answered. @param {{text: string}} props */
function Text({ text }) {
  const [whole, setWhole] = useState(false);
  if (whole || text.length <= LONG) return html`<p class="text" dir="auto">${full(text)}</p>`;
  return html`<p class="text" dir="auto">${full(text.slice(0, SHOWN_OF_LONG))}…</p>
    <button class="small" onClick=${() => setWhole(true)}>Show all ${bytes(text.length)}</button>`;
}

/** The answer token by token, the unlikely ones darker. @param {{tokens: Array<{token: string, logprob: number}>}} props */
function Tokens({ tokens }) {
  return html`<details class="tokens">
    <summary>${plural(tokens.length, "token")} and how likely each was</summary>
    <p>
      ${tokens.map(({ token, logprob }) => {
        const share = Math.exp(logprob);
        const doubt = Math.min(4, Math.floor((1 - share) * 5));
        return html`<span class="token doubt-${doubt}" title=${`${(100 * share).toFixed(1)} % · ${logprob.toFixed(3)}`}>${visible(token).replace(/ /g, "·")}</span>`;
      })}
    </p>
  </details>`;
}
