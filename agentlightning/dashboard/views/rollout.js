// One rollout: its attempts with their traces, and its reward with the span that recorded it.

import { FINAL, cancelRollouts, exportRollouts, retryRollouts } from "../actions.js";
import { call, MAX_SPANS } from "../api.js";
import { readOnly } from "../changes.js";
import { CopyButton, EmptyState, Loading, ResourcesLink, Reward, Status, Time, Value } from "../components/elements.js";
import { count, duration, money, oneLine, plural, printable } from "../format.js";
import { useKeyBindings } from "../keyboard.js";
import { now, useOperation, useQuery } from "../query.js";
import { link, navigate, route, updateParams } from "../route.js";
import { parseCall } from "../trace/calls.js";
import { Conversation } from "../trace/chat.js";
import { Exception, SpanDetail } from "../trace/detail.js";
import { buildTrees, flattenTrees, isCall, spanRewards, spanTitle } from "../trace/spans.js";
import { SpanTree } from "../trace/tree.js";
import { html, useCallback, useMemo, useState } from "../ui.js";
import { useAdjacentRollouts } from "./adjacent.js";
import { listParams } from "./rollouts.js";

const CUT_AT = 20_000;

/** @param {{id: string, params: Record<string, string>}} props */
export function Rollout({ id, params }) {
  const query = useQuery(
    async (options) => {
      const [rollout, attempts] = await Promise.all([
        call("get_rollout_by_id", { rollout_id: id }, options),
        call("query_attempts", { rollout_id: id }, options),
      ]);
      return { rollout, attempts: attempts.items };
    },
    [id],
    (change) => id in change.rollouts,
  );
  const spans = useOperation(
    "query_spans",
    { rollout_id: id, attempt_id: params.attempt ?? "latest", cut_at: CUT_AT, limit: MAX_SPANS },
    (change) => change.spans.includes(id),
  );
  const adjacent = useAdjacentRollouts(id, params);
  useKeyBindings({ Escape: () => navigate(link("rollouts", null, listParams(params))) });
  if (!query.data) return html`<${Loading} query=${query} name="the rollout" />`;
  const { rollout, attempts } = query.data;
  if (!rollout)
    return html`<${EmptyState}>Rollout <code>${printable(id)}</code> does not exist in this store. <a href=${link("rollouts")}>All rollouts</a><//>`;
  const attempt = attempts.find((/** @type {any} */ one) => one.attempt_id === params.attempt) ?? attempts.at(-1);
  return html`<section class="rollout-view" aria-labelledby="title">
    <${Heading} rollout=${rollout} adjacent=${adjacent} />
    <${Facts} ...${{ rollout, attempts, attempt }} spans=${spans.data?.items ?? []} />
    <${AttemptTimeline}
      attempts=${attempts}
      selected=${attempt?.attempt_id}
      onSelect=${(/** @type {string} */ selected) => updateParams({ attempt: selected, span: null })}
    />
    <${Input} value=${rollout.input} />
    ${attempt ? html`<${Trace} key=${attempt.attempt_id} ...${{ attempt, params }} query=${spans} />` : html`<${EmptyState}>Queued; no attempt has started yet.<//>`}
  </section>`;
}

/** @param {{rollout: any, adjacent: ReturnType<typeof useAdjacentRollouts>}} props */
function Heading({ rollout, adjacent }) {
  const { rollout_id, status } = rollout;
  const [progress, setProgress] = useState("");
  const python = `from agentlightning import LightningStoreClient

async with LightningStoreClient("${new URL(".", document.baseURI).href.replace(/\/$/, "")}") as store:
    rollout = await store.get_rollout_by_id("${rollout_id}")
    spans = await store.query_spans("${rollout_id}")
`;
  return html`<div class="toolbar">
    <h1 id="title" class="id">${printable(rollout_id)}</h1>
    <${Status} status=${status} />
    <span class="adjacent">
      <${AdjacentLink} to=${adjacent.previous} label="Previous" arrow="←" />
      <${AdjacentLink} to=${adjacent.next} label="Next" arrow="→" />
    </span>
    <span class="spacer"></span>
    <span class="dim">${progress}</span>
    ${!readOnly.value && FINAL.has(status) && html`<button class="small" onClick=${() => retryRollouts([rollout_id])}>Retry</button>`}
    ${!readOnly.value && !FINAL.has(status) && html`<button class="small" onClick=${() => cancelRollouts([rollout_id])}>Cancel</button>`}
    <button class="small" onClick=${() => exportRollouts({ rollout_id_in: [rollout_id] }, setProgress).then(() => setProgress(""))}>Export as JSONL</button>
    <${CopyButton} label="Copy as Python" name="Python code" text=${() => python} />
  </div>`;
}

/** @param {{to: string | null, label: string, arrow: string}} props */
function AdjacentLink({ to, label, arrow }) {
  if (!to) return html`<span class="button off" aria-disabled="true" aria-label=${label} role="link">${arrow}</span>`;
  return html`<a class="button" href=${to} aria-label=${label} title=${`${label} rollout`}>${arrow}</a>`;
}

/** @param {{rollout: any, attempts: any[], attempt: any, spans: any[]}} props */
function Facts({ rollout, attempts, attempt, spans }) {
  const { start_time, end_time, status } = rollout;
  const endTime = FINAL.has(status) ? end_time : now.value;
  const firstAttemptTime = attempts[0]?.start_time ?? endTime;
  const metadata = Object.entries(rollout.metadata ?? {});
  return html`<dl class="facts-list">
    <div><dt>Reward</dt><dd><${Reward} value=${rollout.reward} /> <${RewardSource} spans=${spans} /></dd></div>
    <div><dt>Mode</dt><dd>${rollout.mode ?? "–"}</dd></div>
    <div><dt>Resources</dt><dd><${ResourcesLink} id=${rollout.resources_id} version=${rollout.resources_version} /></dd></div>
    <div><dt>Created</dt><dd><${Time} at=${start_time} /></dd></div>
    <div><dt>Queue time</dt><dd class="number">${duration(firstAttemptTime - start_time)}</dd></div>
    ${attempts.length > 0 && html`<div><dt>Duration</dt><dd class="number">${duration(endTime - firstAttemptTime)}</dd></div>`}
    <${Usage} spans=${spans} />
    <div><dt>Worker</dt><dd class="id">${printable(attempt?.worker_id ?? "–")}</dd></div>
    ${metadata.map(([name, value]) => html`<div><dt>${printable(name)}</dt><dd>${printable(typeof value === "string" ? value : JSON.stringify(value))}</dd></div>`)}
  </dl>`;
}

/** A link to the span that set the final reward, which is the last span with a reward. @param {{spans: any[]}} props */
function RewardSource({ spans }) {
  const source = useMemo(() => spans.findLast((span) => spanRewards(span).length > 0), [spans]);
  if (!source) return null;
  return html`<button class="link" title="Show the span with this reward" onClick=${() => updateParams({ tab: null, span: source.span_id })}>Source: ${oneLine(spanTitle(source), 40)}</button>`;
}

/** The number of the attempt's model calls, with their tokens and cost. @param {{spans: any[]}} props */
function Usage({ spans }) {
  const calls = useMemo(() => spans.filter(isCall).map(parseCall), [spans]);
  if (!calls.length) return null;
  const sum = (/** @type {(call: ReturnType<typeof parseCall>) => any} */ read) =>
    calls.reduce((total, call) => total + Number(read(call) ?? 0), 0);
  const hasCost = calls.some(({ cost }) => cost !== null);
  return html`
    <div><dt>Model calls</dt><dd class="number">${count(calls.length)}</dd></div>
    <div><dt>Tokens in / out</dt><dd class="number">${count(sum(({ tokens }) => tokens.input))} / ${count(sum(({ tokens }) => tokens.output))}</dd></div>
    ${hasCost && html`<div><dt>Cost</dt><dd class="number">${money(sum(({ cost }) => cost))}</dd></div>`}
  `;
}

/**
 * The attempts on a common time axis, each with the reason if it failed.
 * @param {{attempts: any[], selected?: string, onSelect: (id: string) => void}} props
 */
function AttemptTimeline({ attempts, selected, onSelect }) {
  if (!attempts.length) return null;
  const from = attempts[0].start_time;
  const to = Math.max(...attempts.map(attemptEnd), from + 0.001);
  return html`<div class="attempts" role="group" aria-label="Attempts">
    ${attempts.map((attempt) => {
      const left = (100 * (attempt.start_time - from)) / (to - from);
      const width = (100 * (attemptEnd(attempt) - attempt.start_time)) / (to - from);
      return html`<button
        key=${attempt.attempt_id}
        class="attempt"
        aria-pressed=${attempt.attempt_id === selected}
        onClick=${() => onSelect(attempt.attempt_id)}
      >
        <span class="number dim" title="Attempt ${attempt.sequence_id}">${attempt.sequence_id}</span>
        <${Status} status=${attempt.status} />
        <span class="line" aria-hidden="true"><span class=${attempt.status} style=${{ left: `${left}%`, width: `max(3px, ${width}%)` }}></span></span>
        <span class="number dim">${duration(attemptEnd(attempt) - attempt.start_time)}</span>
        <span class="reason">${oneLine(attempt.metadata?.reason ?? "", 200)}</span>
      </button>`;
    })}
    ${
      attempts.length > 1 &&
      html`<div class="attempt scale dim" aria-hidden="true"><span></span><span></span><span class="ends"><span>0</span><span>${duration(to - from)}</span></span></div>`
    }
  </div>`;
}

/** @param {any} attempt */
function attemptEnd({ end_time }) {
  return end_time ?? now.value;
}

const MAX_INLINE_INPUT = 120;
const MAX_OPEN_INPUT = 400;

/** @param {{value: any}} props */
function Input({ value }) {
  const text = useMemo(() => JSON.stringify(value), [value]);
  if (text.length < MAX_INLINE_INPUT) return html`<p class="input">Input <${Value} value=${text} label="input" /></p>`;
  return html`<details class="input" open=${text.length < MAX_OPEN_INPUT}>
    <summary>Input <code class="dim">${oneLine(value, MAX_INLINE_INPUT)}</code></summary>
    <${Value} value=${value} label="input" />
  </details>`;
}

/** @param {{attempt: any, query: import("../query.js").Query<any>, params: Record<string, string>}} props */
function Trace({ attempt, query, params }) {
  const { metadata } = attempt;
  const spans = query.data?.items ?? [];
  const tab = params.tab ?? "trace";
  const calls = spans.filter(isCall);
  return html`
    ${metadata?.traceback && html`<${Exception} type="Failure reason" message=${metadata.reason ?? ""} stack=${metadata.traceback} />`}
    <div class="tabs" role="group" aria-label="View">
      <button aria-pressed=${tab === "trace"} onClick=${() => updateParams({ tab: null })}>Trace</button>
      <button aria-pressed=${tab === "chat"} onClick=${() => updateParams({ tab: "chat" })}>Chat</button>
      <button aria-pressed=${tab === "rewards"} onClick=${() => updateParams({ tab: "rewards" })}>Rewards</button>
      <span class="dim">${query.data ? `${plural(spans.length, "span")}, ${plural(calls.length, "model call")}` : ""}</span>
    </div>
    ${!query.data && html`<${Loading} query=${query} name="the spans" />`}
    ${query.data && spans.length === 0 && html`<${EmptyState} command="agl.emit_message(…)">No spans yet.<//>`}
    ${spans.length > 0 && tab === "trace" && html`<${TraceTab} spans=${spans} selected=${params.span ?? null} />`}
    ${spans.length > 0 && tab === "chat" && (calls.length ? html`<${Conversation} spans=${calls} />` : html`<${EmptyState}>No model calls.<//>`)}
    ${spans.length > 0 && tab === "rewards" && html`<${RewardsTab} spans=${spans} />`}
  `;
}

/** @param {{spans: any[], selected: string | null}} props */
function TraceTab({ spans, selected }) {
  const [collapsed, setCollapsed] = useState(/** @type {Set<string>} */ (new Set()));
  const toggle = useCallback(
    (/** @type {string} */ id) =>
      setCollapsed((before) => {
        const next = new Set(before);
        if (!next.delete(id)) next.add(id);
        return next;
      }),
    [],
  );
  const select = useCallback((/** @type {string} */ id) => updateParams({ span: id }), []);
  const rows = useMemo(() => flattenTrees(buildTrees(spans), collapsed), [spans, collapsed]);
  const span =
    spans.find(({ span_id }) => span_id === selected) ?? rows.find(({ span }) => isCall(span))?.span ?? rows[0].span;
  const step = (/** @type {number} */ by) => {
    // Read the span from the URL, because the step from the previous key press may not have been rendered yet.
    const from = route.value.params.span ?? span.span_id;
    const index = rows.findIndex((row) => row.span.span_id === from);
    select(rows[Math.max(0, Math.min(rows.length - 1, index + by))].span.span_id);
  };
  useKeyBindings({ j: () => step(1), k: () => step(-1), Enter: () => toggle(span.span_id) });
  return html`<div class="trace">
    <div><${SpanTree} ...${{ spans, collapsed }} selected=${span.span_id} onSelect=${select} onToggle=${toggle} /></div>
    <${SpanDetail} key=${span.span_id} span=${span} />
  </div>`;
}

/** @param {{spans: any[]}} props */
function RewardsTab({ spans }) {
  const rewards = spans.flatMap((span) => spanRewards(span).map((reward, n) => ({ span, reward, primary: n === 0 })));
  const final = rewards.findLast(({ primary }) => primary);
  if (!final) return html`<${EmptyState} command="agl.emit_reward(1.0)">No rewards.<//>`;
  return html`<table class="plain">
    <thead><tr><th scope="col">Reward</th><th scope="col">Name</th><th scope="col">Source</th><th scope="col">Time</th></tr></thead>
    <tbody>
      ${rewards.map(
        (one) => html`<tr class=${one === final ? "current" : ""}>
          <td><${Reward} value=${one.reward.value} /> ${one === final && html`<span class="chip">final</span>`}</td>
          <td>${printable(one.reward.name)}</td>
          <td><button class="link" onClick=${() => updateParams({ tab: null, span: one.span.span_id })}>${printable(spanTitle(one.span))}, span ${one.span.sequence_id}</button></td>
          <td><${Time} at=${one.span.start_time} /></td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}
