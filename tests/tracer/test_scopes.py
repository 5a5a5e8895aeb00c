"""Scopes: concurrent rollouts in one process each get exactly their own spans."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import AsyncOpenAI, OpenAI
from opentelemetry import baggage, context, trace

from agentlightning.emitter import emit_reward
from agentlightning.errors import NoActiveTracer
from agentlightning.store import LightningStore
from agentlightning.tracer import (
    LightningTracer,
    OtelTracer,
    Tracer,
    clear_active_tracer,
    get_active_tracer,
    set_active_tracer,
)
from agentlightning.types import AttemptedRollout
from tests.scripted_model import Answer, ScriptedModel

from .conftest import ids

ROLLOUTS = 20


async def test_concurrent_async_rollouts_get_their_own_spans(store: LightningStore, model: ScriptedModel) -> None:
    tracer = LightningTracer()
    rollouts = [await store.start_rollout(f"task {n}") for n in range(ROLLOUTS)]
    model.script(*(Answer("ok", delay=0.02) for _ in range(ROLLOUTS)))

    async with AsyncOpenAI(base_url=model.base_url, api_key="none") as client:

        async def run(rollout: AttemptedRollout) -> None:
            async with tracer.trace_context(**ids(rollout)):
                for turn in ("first", "second"):
                    await client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": f"{rollout.input}: {turn}"}]
                    )
                emit_reward(float(rollout.input.removeprefix("task ")))

        with tracer.lifespan(store):
            await asyncio.gather(*map(run, rollouts))

    for n, rollout in enumerate(rollouts):
        await _assert_own_spans(store, rollout, float(n))


async def test_concurrent_rollouts_in_threads_get_their_own_spans(store: LightningStore, model: ScriptedModel) -> None:
    tracer = LightningTracer()
    rollouts = [await store.start_rollout(f"task {n}") for n in range(ROLLOUTS)]

    def agent(client: OpenAI, task: str) -> None:
        for turn in ("first", "second"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"{task}: {turn}"}])
        emit_reward(float(task.removeprefix("task ")))

    with OpenAI(base_url=model.base_url, api_key="none") as client, tracer.lifespan(store):

        async def run(rollout: AttemptedRollout) -> None:
            async with tracer.trace_context(**ids(rollout)):
                await asyncio.to_thread(agent, client, rollout.input)

        await asyncio.gather(*map(run, rollouts))

    for n, rollout in enumerate(rollouts):
        await _assert_own_spans(store, rollout, float(n))


async def _assert_own_spans(store: LightningStore, rollout: AttemptedRollout, reward: float) -> None:
    spans = await store.query_spans(rollout.rollout_id)
    assert [span.attributes.get("gen_ai.prompt.0.content") for span in spans] == [
        f"{rollout.input}: first",
        f"{rollout.input}: second",
        None,
    ]
    assert spans[2].attributes["agentlightning.reward.0.value"] == reward
    assert len({span.trace_id for span in spans}) == 1


async def test_threads_and_executors_of_an_agent_inherit_its_scope() -> None:
    tracer = LightningTracer()
    pool = ThreadPoolExecutor(1)

    def step(name: str) -> None:
        trace.get_tracer("library").start_span(name).end()

    async def run(name: str) -> list[str]:
        async with tracer.trace_context():
            thread = threading.Thread(target=step, args=(f"{name} in a thread",))
            thread.start()
            thread.join()
            pool.submit(step, f"{name} in a pool").result()
            await asyncio.get_running_loop().run_in_executor(None, step, f"{name} in the default executor")
            await asyncio.to_thread(step, f"{name} in to_thread")
        return [span.name for span in tracer.get_last_trace()]

    with tracer.lifespan():
        # One after the other: the second uses the threads that the first has started.
        for name in ("first", "second"):
            assert await run(name) == [
                f"{name} in a thread",
                f"{name} in a pool",
                f"{name} in the default executor",
                f"{name} in to_thread",
            ]
        pool.submit(step, "outside").result()
    pool.shutdown()
    assert [span.name for span in tracer.get_last_trace()][-1] == "second in to_thread"


async def test_span_in_a_context_without_scope_belongs_to_the_scope_of_its_parent() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context():
        library = trace.get_tracer("library")
        parent = library.start_span("parent")
        bare = trace.set_span_in_context(parent, context.Context())
        library.start_span("child", bare).end()
        parent.end()

    child_span, parent_span = tracer.get_last_trace()
    assert (child_span.name, child_span.parent_id) == ("child", parent_span.span_id)


async def test_baggage_has_the_ids_within_trace_context_only() -> None:
    async with OtelTracer().trace_context(rollout_id="ro-1", attempt_id="at-1"):
        assert baggage.get_all() == {"agentlightning.rollout_id": "ro-1", "agentlightning.attempt_id": "at-1"}
    assert baggage.get_all() == {}


async def test_last_trace_is_that_of_the_current_task() -> None:
    tracer = OtelTracer()
    entered = asyncio.Barrier(2)

    async def run(name: str) -> list[str]:
        async with tracer.trace_context(name):
            await entered.wait()
            tracer.create_span(f"step of {name}")
        return [span.name for span in tracer.get_last_trace()]

    assert await asyncio.gather(run("a"), run("b")) == [["step of a", "a"], ["step of b", "b"]]


def test_last_trace_is_available_after_its_event_loop_has_ended() -> None:
    tracer = OtelTracer()

    async def main() -> None:
        async with tracer.trace_context("whole"):
            pass

    asyncio.run(main())

    assert [span.name for span in tracer.get_last_trace()] == ["whole"]


async def test_trace_context_without_ids_stores_nothing(store: LightningStore) -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("local", store=store):
        tracer.create_span("step", {"n": 1})

    assert [(span.name, span.rollout_id) for span in tracer.get_last_trace()] == [("step", ""), ("local", "")]
    assert (await store.statistics())["spans"] == 0


async def test_named_trace_context_is_the_parent_of_its_spans() -> None:
    tracer = OtelTracer()

    async def run() -> None:
        async with tracer.trace_context("whole"):
            with tracer.operation_context("part"):
                tracer.create_span("moment")
            raise RuntimeError("it failed")

    with pytest.raises(RuntimeError, match="it failed"):
        await run()
    moment, part, whole = tracer.get_last_trace()
    assert (moment.parent_id, part.parent_id, whole.parent_id) == (part.span_id, whole.span_id, None)
    assert (part.status.status_code, whole.status.status_code) == ("OK", "ERROR")
    assert whole.status.description == "RuntimeError: it failed"


async def test_active_tracer_is_that_of_the_innermost_trace_context() -> None:
    outer, inner = OtelTracer(), LightningTracer()
    assert get_active_tracer() is None
    async with outer.trace_context():
        assert get_active_tracer() is outer
        async with inner.trace_context():
            assert get_active_tracer() is inner
        assert get_active_tracer() is outer
    assert get_active_tracer() is None


def test_active_tracer_can_be_set_and_cleared() -> None:
    tracer: Tracer = OtelTracer()
    set_active_tracer(tracer)
    assert get_active_tracer() is tracer
    clear_active_tracer()
    with pytest.raises(NoActiveTracer):
        emit_reward(1.0)
