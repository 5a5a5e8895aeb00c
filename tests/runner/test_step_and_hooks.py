"""Single steps, hooks, class agents, and worker names."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import re
from typing import Any

import pytest
from opentelemetry import trace

import agentlightning as agl

from .conftest import Harness


async def test_step_runs_one_rollout_and_returns_it_finished(harness: Harness):
    def agent(task, prompt_template):
        return float(len(prompt_template.format(name=task)))

    runner = harness.runner()
    with runner.run_context(agent=agent, store=harness.store):
        rollout = await runner.step("Ann", resources={"greeting": "Hello {name}"}, mode="val")  # pyright: ignore

    assert (rollout.status, rollout.mode, rollout.input) == ("succeeded", "val", "Ann")
    assert agl.find_final_reward(await harness.spans(rollout)) == 9.0


async def test_step_without_resources_uses_the_latest(harness: Harness):
    await harness.store.add_resources({"prompt": "Hi"})  # pyright: ignore[reportArgumentType]
    seen = []
    runner = harness.runner()
    with runner.run_context(agent=lambda task, resources: seen.extend(resources), store=harness.store):
        rollout = await runner.step("task")

    assert (rollout.status, seen) == ("succeeded", ["prompt"])


async def test_steps_may_run_concurrently_and_in_several_event_loops(harness: Harness):
    async def agent(task):
        return task

    async def two(runner, first):
        return await asyncio.gather(runner.step(first), runner.step(first + 1))

    runner = harness.runner()

    def in_other_loops():
        with runner.run_context(agent=agent, store=harness.store):
            return asyncio.run(two(runner, 1)) + asyncio.run(two(runner, 3))

    rollouts = await asyncio.to_thread(in_other_loops)

    assert [rollout.status for rollout in rollouts] == ["succeeded"] * 4
    assert [agl.find_final_reward(await harness.spans(each)) for each in rollouts] == [1, 2, 3, 4]


async def test_failing_step_returns_the_failed_rollout(harness: Harness):
    runner = harness.runner()
    with runner.run_context(agent=lambda task: 1 / 0, store=harness.store):
        rollout: Any = await runner.step("task")

    assert rollout.status == "failed"
    assert rollout.attempt.metadata["reason"] == "ZeroDivisionError: division by zero"


async def test_cancelled_step_ends_its_rollout(harness: Harness):
    started = asyncio.Event()

    async def agent(task):
        started.set()
        await asyncio.Event().wait()

    runner = harness.runner()
    with runner.run_context(agent=agent, store=harness.store):
        step = asyncio.create_task(runner.step("task"))
        await started.wait()
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step

    rollout: Any = (await harness.store.query_rollouts())[0]
    assert rollout.status == "failed"
    assert rollout.attempt.metadata["reason"] == "the call to step was cancelled"


async def test_runner_outside_its_context_raises_with_advice(harness: Harness):
    with pytest.raises(RuntimeError, match="use it inside `with runner"):
        await harness.runner().step("task")


# Hooks


class HookRecorder(agl.Hook):
    """Records the calls, and emits a span where a trace is active."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.calls: list[Any] = []

    async def on_rollout_start(self, *, agent, runner, rollout):
        self.calls.append("rollout start")

    async def on_trace_start(self, *, agent, runner, tracer, rollout):
        self.calls.append("trace start")
        trace.get_tracer("hook").start_span("hook before").end()

    async def on_trace_end(self, *, agent, runner, tracer, rollout):
        self.calls.append("trace end")
        trace.get_tracer("hook").start_span("hook after").end()

    async def on_rollout_end(self, *, agent, runner, rollout, spans):
        now = await self.store.get_rollout_by_id(rollout.rollout_id)
        stored = await self.store.query_spans(rollout.rollout_id)
        self.calls.append(("rollout end", now.status, [span.name for span in spans] == [span.name for span in stored]))


@pytest.mark.parametrize("status", ["succeeded", "failed"])
async def test_hooks_are_called_in_order_around_the_agent(harness: Harness, status: str):
    recorder = HookRecorder(harness.store)

    def agent(task):
        recorder.calls.append("agent")
        trace.get_tracer("agent").start_span("agent").end()
        return 1.0 if status == "succeeded" else 1 / 0

    rollout = await harness.run_one(agent, hooks=[recorder])

    assert recorder.calls == ["rollout start", "trace start", "agent", "trace end", ("rollout end", status, True)]
    names = [span.name for span in await harness.spans(rollout)]
    assert names[:3] == ["hook before", "agent", "hook after"]
    assert len(names) == 4  # the reward or the exception comes last


async def test_errors_in_hooks_are_logged_and_swallowed(harness: Harness, caplog: pytest.LogCaptureFixture):
    class Broken(agl.Hook):
        async def on_rollout_start(self, **_):
            raise ValueError("first")

        async def on_rollout_end(self, **_):
            raise ValueError("last")

    recorder = HookRecorder(harness.store)
    with caplog.at_level(logging.ERROR):
        rollout = await harness.run_one(lambda task: 1.0, hooks=[Broken(), recorder])

    assert rollout.status == "succeeded"
    assert len(recorder.calls) == 4
    failed = [record.getMessage().partition("] ")[2] for record in caplog.records]
    assert failed == ["The hook Broken.on_rollout_start failed", "The hook Broken.on_rollout_end failed"]


# Class agents


async def test_class_agent_runs_the_method_of_the_mode(harness: Harness):
    class Agent(agl.LitAgent[str]):
        def training_rollout(self, task, resources, rollout):
            return 1.0

        async def validation_rollout_async(self, task, resources, rollout):
            return 2.0 if rollout.attempt.sequence_id == 1 else 0.0

    train = await harness.run_one(Agent(), mode="train")
    val = await harness.run_one(Agent(), mode="val")

    rewards = [agl.find_final_reward(await harness.spans(each)) for each in (train, val)]
    assert rewards == [1.0, 2.0]


async def test_class_agent_without_a_method_for_the_mode_fails_with_advice(harness: Harness):
    class Agent(agl.LitAgent[str]):
        def training_rollout(self, task, resources, rollout):
            return 1.0

    rollout = await harness.run_one(Agent(), mode="val")

    assert rollout.attempt.metadata["reason"].startswith("AgentError: Agent has no method for a rollout in mode val")


# Workers


async def test_worker_names_are_numbers_in_the_log_and_unique_in_the_store(harness: Harness):
    first, second, third, named = (harness.runner() for _ in range(4))

    def context(runner, worker_id=None):
        return runner.run_context(agent=lambda task: None, store=harness.store, worker_id=worker_id)

    with context(first), context(second), context(third, 7), context(named, "my-worker"):
        ids = [runner.worker_id for runner in (first, second, third, named)]
    with context(first):
        assert first.worker_id == ids[0]

    assert [re.sub(rf"^.+-{os.getpid()}-", "", each) for each in ids] == ["0", "1", "7", "my-worker"]


async def test_heartbeat_contains_facts_about_the_worker(harness: Harness):
    await harness.run(lambda task: None, "a", "b")

    [worker] = await harness.store.query_workers()
    assert worker.heartbeat_stats is not None
    assert worker.heartbeat_stats["pid"] == os.getpid()
    assert worker.heartbeat_stats["python"] == platform.python_version()
    assert worker.heartbeat_stats["memory_mb"] > 10
    assert worker.status == "idle"
