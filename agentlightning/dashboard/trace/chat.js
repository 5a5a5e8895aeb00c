// Model calls as a chat: messages, tool calls and their results.

import { CopyButton, Value } from "../components/elements.js";
import { bytes, count, duration, money, plural, prettyPrint, printable } from "../format.js";
import { html, useState } from "../ui.js";
import { asCurl, asPython, parseCall, textOf } from "./calls.js";
import { spanSeconds } from "./spans.js";

/** @typedef {import("./calls.js").Message} Message */

/**
 * One call in full.
 * @param {{span: any, after?: number}} props `after`: number of messages to leave out, because they are shown above
 */
export function Call({ span, after = 0 }) {
  const call = parseCall(span);
  const earlier = Math.min(after, call.input.length);
  return html`<div class="call">
    <${CallFacts} span=${span} call=${call} />
    ${earlier > 0 && html`<p class="dim">… ${earlier} earlier messages (see above)</p>`}
    <ol class="chat">
      ${call.input.slice(earlier).map((message) => html`<${ChatMessage} message=${message} />`)}
      ${call.output.map((message) => html`<${ChatMessage} message=${message} isOutput=${true} />`)}
    </ol>
    ${call.logprobs.length > 0 && html`<${Tokens} tokens=${call.logprobs} />`}
    ${
      call.tools.length > 0 &&
      html`<details><summary>${plural(call.tools.length, "tool")} available</summary><${Value} value=${call.tools} label="tools" /></details>`
    }
    <div class="actions">
      <${CopyButton} label="Copy as curl" name="curl command" text=${() => asCurl(call)} />
      <${CopyButton} label="Copy as Python" name="Python code" text=${() => asPython(call)} />
    </div>
  </div>`;
}

/**
 * All calls of an attempt as one conversation, without repeating messages that are already shown above.
 * @param {{spans: any[]}} props
 */
export function Conversation({ spans }) {
  const keyOf = (/** @type {Message} */ { role, parts }) => JSON.stringify([role, parts.map(textOf)]);
  /** @type {string[]} */
  let before = [];
  return html`<div class="conversation">
    ${spans.map((span) => {
      const call = parseCall(span);
      const input = call.input.map(keyOf);
      const firstNew = input.findIndex((message, index) => message !== before[index]);
      const after = firstNew < 0 ? Math.min(input.length, before.length) : firstNew;
      before = [...input, ...call.output.map(keyOf)];
      return html`<${Call} key=${span.span_id} span=${span} after=${after} />`;
    })}
  </div>`;
}

/** @param {{span: any, call: ReturnType<typeof parseCall>}} props */
function CallFacts({ span, call }) {
  const { input, output } = call.tokens;
  const settings = Object.entries(call.settings).map(([name, value]) => `${name} ${value}`);
  const seconds = spanSeconds(span);
  return html`<p class="facts">
    <strong>${printable(call.model)}</strong>
    <span title="Latency">${duration(seconds)}</span>
    ${input !== null && html`<span>${plural(input, "token")} in</span>`}
    ${output !== null && html`<span>${count(output)} out</span>`}
    ${output && seconds && html`<span>${count(Math.round(output / seconds))} tokens/s</span>`}
    ${call.cost !== null && html`<span>${money(Number(call.cost))}</span>`}
    ${call.streamed && html`<span>streamed</span>`}
    ${settings.map((setting) => html`<span class="dim">${printable(setting)}</span>`)}
    ${call.incomplete && html`<span class="bad">incomplete response</span>`}
    ${call.captureError && html`<span class="bad">${printable(call.captureError)}</span>`}
  </p>`;
}

/** @param {{message: Message, isOutput?: boolean}} props */
function ChatMessage({ message, isOutput = false }) {
  return html`<li class="chat-message ${message.role} ${isOutput ? "output" : ""}">
    <span class="role">${printable(message.role)}</span>
    <div class="parts">
      ${message.parts.length === 0 && html`<span class="dim">(empty)</span>`}
      ${message.parts.map((part) => html`<${Part} part=${part} />`)}
      ${message.finish && message.finish !== "stop" && html`<span class="dim">finish reason: ${printable(message.finish)}</span>`}
    </div>
  </li>`;
}

/** @param {{part: import("./calls.js").Part}} props */
function Part({ part }) {
  switch (part.type) {
    case "text":
      return html`<${MessageText} text=${textOf(part)} />`;
    case "reasoning":
      return html`<details class="reasoning"><summary>Reasoning</summary><${MessageText} text=${textOf(part)} /></details>`;
    case "tool_call":
      return html`<div class="tool">
        <code>${printable(part.name ?? "tool")}</code><span class="dim"> tool call ${printable(part.id ?? "")}</span>
        <${Value} value=${part.arguments} label="arguments" />
      </div>`;
    case "tool_call_response":
      return html`<div class="tool"><span class="dim">result of ${printable(part.id ?? "the tool call")} </span><${Value} value=${part.response} label="result" /></div>`;
    default:
      return html`<div class="tool"><span class="dim">${printable(part.type)}</span><${Value} value=${part} label=${part.type} /></div>`;
  }
}

const MAX_TEXT_LENGTH = 1_500;
const PREVIEW_LENGTH = 900;

/**
 * The text of a message. A long text is truncated at first, so that it does not push the output out of view.
 * @param {{text: string}} props
 */
function MessageText({ text }) {
  const [expanded, setExpanded] = useState(false);
  if (expanded || text.length <= MAX_TEXT_LENGTH) return html`<p class="text" dir="auto">${prettyPrint(text)}</p>`;
  return html`<p class="text" dir="auto">${prettyPrint(text.slice(0, PREVIEW_LENGTH))}…</p>
    <button class="small" onClick=${() => setExpanded(true)}>Show all ${bytes(text.length)}</button>`;
}

/**
 * The output, token by token. The less probable a token is, the stronger its background colour.
 * @param {{tokens: Array<{token: string, logprob: number}>}} props
 */
function Tokens({ tokens }) {
  return html`<details class="tokens">
    <summary>${plural(tokens.length, "token")} with probabilities</summary>
    <p>
      ${tokens.map(({ token, logprob }) => {
        const probability = Math.exp(logprob);
        const level = Math.min(4, Math.floor((1 - probability) * 5));
        return html`<span class="token unlikely-${level}" title=${`${(100 * probability).toFixed(1)} % · ${logprob.toFixed(3)}`}>${printable(token).replace(/ /g, "·")}</span>`;
      })}
    </p>
  </details>`;
}
