// One rollout: how its attempts went, what was seen of each, what it was worth and why.

import { FINAL, cancelled, exported, retried } from "../actions.js";
import { call } from "../api.js";
import { now, useCall, useLoaded } from "../data.js";
import { useKeys } from "../keys.js";
import { unchangeable } from "../live.js";
import { Attempts } from "../parts/attempts.js";
import { Copy, Empty, Reward, ResourcesLink, Status, Time, Value, Waiting } from "../parts/small.js";
import { change, go, link, route } from "../route.js";
import { callOf } from "../trace/calls.js";
import { Conversation } from "../trace/chat.js";
import { Detail, Exception } from "../trace/detail.js";
import { isCall, rewardsOf, rowsOf, titleOf, treesOf } from "../trace/spans.js";
import { Tree } from "../trace/tree.js";
import { html, useCallback, useMemo, useState } from "../ui.js";
import { brief, count, duration, money, plural, visible } from "../words.js";
import { listOf } from "./rollouts.js";
import { useSteps } from "./steps.js";

const CUT_AT = 20_000;

/** @param {{id: string, params: Record<string, string>}} props */
export function Rollout({ id, params }) {
  const loaded = useLoaded(
    async (options) => {
      const [rollout, attempts] = await Promise.all([
        call("get_rollout_by_id", { rollout_id: id }, options),
        call("query_attempts", { rollout_id: id }, options),
      ]);
      return { rollout, attempts: attempts.items };
    },
    [id],
    (news) => id in news.rollouts,
  );
  const traced = useCall(
    "query_spans",
    { rollout_id: id, attempt_id: params.attempt ?? "latest", cut_at: CUT_AT },
    (news) => news.spans.includes(id),
  );
  const steps = useSteps(id, params);
  useKeys({ Escape: () => go(link("rollouts", null, listOf(params))) });
  if (!loaded.data) return html`<${Waiting} of=${loaded} what="the rollout" />`;
  const { rollout, attempts } = loaded.data;
  if (!rollout)
    return html`<${Empty}>There is no rollout <code>${visible(id)}</code> in this store. <a href=${link("rollouts")}>All rollouts</a><//>`;
  const attempt = attempts.find((/** @type {any} */ one) => one.attempt_id === params.attempt) ?? attempts.at(-1);
  return html`<section class="rollout-view" aria-labelledby="title">
    <${Heading} rollout=${rollout} steps=${steps} />
    <${Facts} ...${{ rollout, attempts, attempt }} spans=${traced.data?.items ?? []} />
    <${Attempts}
      attempts=${attempts}
      chosen=${attempt?.attempt_id}
      onChoose=${(/** @type {string} */ chosen) => change({ attempt: chosen, span: null })}
    />
    <${Input} value=${rollout.input} />
    ${attempt ? html`<${Trace} key=${attempt.attempt_id} ...${{ attempt, traced, params }} />` : html`<${Empty}>It waits in the queue; no attempt has been made yet.<//>`}
  </section>`;
}

const SHORT_INPUT = 120;
const LONG_INPUT = 400;

/** @param {{value: any}} props */
function Input({ value }) {
  const text = useMemo(() => JSON.stringify(value), [value]);
  if (text.length < SHORT_INPUT) return html`<p class="input">Input <${Value} value=${text} label="input" /></p>`;
  return html`<details class="input" open=${text.length < LONG_INPUT}>
    <summary>Input <code class="dim">${brief(value, SHORT_INPUT)}</code></summary>
    <${Value} value=${value} label="input" />
  </details>`;
}

/** @param {{rollout: any, steps: ReturnType<typeof useSteps>}} props */
function Heading({ rollout, steps }) {
  const { rollout_id, status } = rollout;
  const [doing, setDoing] = useState("");
  const python = `from agentlightning import LightningStoreClient

async with LightningStoreClient("${new URL(".", document.baseURI).href.replace(/\/$/, "")}") as store:
    rollout = await store.get_rollout_by_id("${rollout_id}")
    spans = await store.query_spans("${rollout_id}")
`;
  return html`<div class="toolbar">
    <h1 id="title" class="id">${visible(rollout_id)}</h1>
    <${Status} status=${status} />
    <span class="steps">
      <${Step} to=${steps.previous} label="Previous" arrow="←" />
      <${Step} to=${steps.next} label="Next" arrow="→" />
    </span>
    <span class="spacer"></span>
    <span class="dim">${doing}</span>
    ${!unchangeable.value && FINAL.has(status) && html`<button class="small" onClick=${() => retried([rollout_id])}>Retry</button>`}
    ${!unchangeable.value && !FINAL.has(status) && html`<button class="small" onClick=${() => cancelled([rollout_id])}>Cancel</button>`}
    <button class="small" onClick=${() => exported({ rollout_id_in: [rollout_id] }, setDoing).then(() => setDoing(""))}>Export as JSONL</button>
    <${Copy} label="Copy as Python" text=${() => python} />
  </div>`;
}

/** @param {{to: string | null, label: string, arrow: string}} props */
function Step({ to, label, arrow }) {
  if (!to) return html`<span class="button off" aria-disabled="true" aria-label=${label} role="link">${arrow}</span>`;
  return html`<a class="button" href=${to} aria-label=${label} title=${`${label} rollout`}>${arrow}</a>`;
}

/** The span that gave the reward which counts: the last primary one. @param {{spans: any[]}} props */
function RewardSource({ spans }) {
  const source = useMemo(() => spans.findLast((span) => rewardsOf(span).length > 0), [spans]);
  if (!source) return null;
  return html`<button class="link" title="The span that gave it" onClick=${() => change({ tab: null, span: source.span_id })}>by ${brief(titleOf(source), 40)}</button>`;
}

/** What the attempt's calls took of what is paid for. @param {{spans: any[]}} props */
function Spent({ spans }) {
  const calls = useMemo(() => spans.filter(isCall).map(callOf), [spans]);
  if (!calls.length) return null;
  const sum = (/** @type {(call: ReturnType<typeof callOf>) => any} */ read) =>
    calls.reduce((total, call) => total + Number(read(call) ?? 0), 0);
  const costs = calls.filter(({ cost }) => cost !== null);
  return html`
    <div><dt>Calls</dt><dd class="number">${count(calls.length)}</dd></div>
    <div><dt>Tokens in, out</dt><dd class="number">${count(sum(({ tokens }) => tokens.asked))}, ${count(sum(({ tokens }) => tokens.answered))}</dd></div>
    ${costs.length > 0 && html`<div><dt>Cost</dt><dd class="number">${money(sum(({ cost }) => cost))}</dd></div>`}
  `;
}

/** @param {{rollout: any, attempts: any[], attempt: any, spans: any[]}} props */
function Facts({ rollout, attempts, attempt, spans }) {
  const { start_time, end_time, status } = rollout;
  const ended = FINAL.has(status);
  const begun = attempts[0]?.start_time ?? (ended ? end_time : now.value);
  const metadata = Object.entries(rollout.metadata ?? {});
  return html`<dl class="facts-list">
    <div><dt>Reward</dt><dd><${Reward} value=${rollout.reward} /> <${RewardSource} spans=${spans} /></dd></div>
    <div><dt>Mode</dt><dd>${rollout.mode ?? "–"}</dd></div>
    <div><dt>Resources</dt><dd><${ResourcesLink} id=${rollout.resources_id} version=${rollout.resources_version} /></dd></div>
    <div><dt>Made</dt><dd><${Time} at=${start_time} /></dd></div>
    <div><dt>Waited</dt><dd class="number">${duration(begun - start_time)}</dd></div>
    ${attempts.length > 0 && html`<div><dt>${ended ? "Took" : "At it for"}</dt><dd class="number">${duration((ended ? end_time : now.value) - begun)}</dd></div>`}
    <${Spent} spans=${spans} />
    <div><dt>Worker</dt><dd class="id">${visible(attempt?.worker_id ?? "–")}</dd></div>
    ${metadata.map(([name, value]) => html`<div><dt>${visible(name)}</dt><dd>${visible(typeof value === "string" ? value : JSON.stringify(value))}</dd></div>`)}
  </dl>`;
}

/** @param {{attempt: any, traced: import("../data.js").Loaded<any>, params: Record<string, string>}} props */
function Trace({ attempt, traced: loaded, params }) {
  const { metadata } = attempt;
  const spans = loaded.data?.items ?? [];
  const tab = params.tab ?? "trace";
  const calls = spans.filter(isCall);
  return html`
    ${metadata?.traceback && html`<${Exception} type="Why it ended" message=${metadata.reason ?? ""} stack=${metadata.traceback} />`}
    <div class="tabs" role="group" aria-label="How to look at it">
      <button aria-pressed=${tab === "trace"} onClick=${() => change({ tab: null })}>Trace</button>
      <button aria-pressed=${tab === "chat"} onClick=${() => change({ tab: "chat" })}>Chat</button>
      <button aria-pressed=${tab === "rewards"} onClick=${() => change({ tab: "rewards" })}>Rewards</button>
      <span class="dim">${loaded.data ? `${plural(spans.length, "span")}, ${plural(calls.length, "call")}` : ""}</span>
    </div>
    ${!loaded.data && html`<${Waiting} of=${loaded} what="its spans" />`}
    ${loaded.data && spans.length === 0 && html`<${Empty} command="agl.emit_message(…)">No spans yet.<//>`}
    ${spans.length > 0 && tab === "trace" && html`<${TraceTab} spans=${spans} chosen=${params.span ?? null} />`}
    ${spans.length > 0 && tab === "chat" && (calls.length ? html`<${Conversation} spans=${calls} />` : html`<${Empty}>No model was called.<//>`)}
    ${spans.length > 0 && tab === "rewards" && html`<${RewardsTab} spans=${spans} />`}
  `;
}

/** @param {{spans: any[], chosen: string | null}} props */
function TraceTab({ spans, chosen }) {
  const [closed, setClosed] = useState(/** @type {Set<string>} */ (new Set()));
  const toggle = useCallback(
    (/** @type {string} */ id) =>
      setClosed((before) => {
        const next = new Set(before);
        if (!next.delete(id)) next.add(id);
        return next;
      }),
    [],
  );
  const choose = useCallback((/** @type {string} */ id) => change({ span: id }), []);
  const rows = useMemo(() => rowsOf(treesOf(spans), closed), [spans, closed]);
  const span =
    spans.find(({ span_id }) => span_id === chosen) ?? rows.find(({ span }) => isCall(span))?.span ?? rows[0].span;
  const step = (/** @type {number} */ by) => {
    // From what the URL says: a key may be pressed before the one before it is drawn.
    const from = route.value.params.span ?? span.span_id;
    const index = rows.findIndex((row) => row.span.span_id === from);
    choose(rows[Math.max(0, Math.min(rows.length - 1, index + by))].span.span_id);
  };
  useKeys({ j: () => step(1), k: () => step(-1), Enter: () => toggle(span.span_id) });
  return html`<div class="trace">
    <div><${Tree} ...${{ spans, closed }} chosen=${span.span_id} onChoose=${choose} onToggle=${toggle} /></div>
    <${Detail} key=${span.span_id} span=${span} />
  </div>`;
}

/** @param {{spans: any[]}} props */
function RewardsTab({ spans }) {
  const told = spans.flatMap((span) => rewardsOf(span).map((reward, n) => ({ span, reward, primary: n === 0 })));
  const last = told.findLast(({ primary }) => primary);
  if (!last) return html`<${Empty} command="agl.emit_reward(1.0)">No reward was given.<//>`;
  return html`<table class="plain">
    <thead><tr><th scope="col">Reward</th><th scope="col">Name</th><th scope="col">Given by</th><th scope="col">When</th></tr></thead>
    <tbody>
      ${told.map(
        (one) => html`<tr class=${one === last ? "current" : ""}>
          <td><${Reward} value=${one.reward.value} /> ${one === last && html`<span class="chip">final</span>`}</td>
          <td>${visible(one.reward.name)}</td>
          <td><button class="link" onClick=${() => change({ tab: null, span: one.span.span_id })}>${visible(titleOf(one.span))}, span ${one.span.sequence_id}</button></td>
          <td><${Time} at=${one.span.start_time} /></td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}
