"""Claiming, concurrency, and stopping."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import multiprocessing
import os
import signal
import threading
import time
from typing import Any

import pytest
from opentelemetry import trace

import agentlightning as agl
from agentlightning.errors import StoreUnavailable, Unauthorized
from tests.processes import TIMEOUT

from .conftest import Harness, eventually, over_http_too

# Concurrency


async def test_concurrent_async_rollouts_get_only_their_own_spans(harness: Harness):
    barrier = asyncio.Barrier(50)

    async def agent(task):
        for step in range(3):
            await barrier.wait()
            with trace.get_tracer("test").start_as_current_span(f"{task}-{step}"):
                await asyncio.sleep(0)
        return task

    rollouts = await harness.run(agent, *range(50), max_concurrency=50)

    assert [rollout.status for rollout in rollouts] == ["succeeded"] * 50
    for rollout in rollouts:
        task = rollout.input
        names = [span.name for span in await harness.spans(rollout)]
        assert names[:3] == [f"{task}-0", f"{task}-1", f"{task}-2"]
        assert len(names) == 4
        assert agl.find_final_reward(await harness.spans(rollout)) == task


async def test_concurrent_sync_rollouts_run_in_threads_and_get_only_their_own_spans(harness: Harness):
    barrier = threading.Barrier(20)

    def agent(task):
        for step in range(3):
            barrier.wait()
            with trace.get_tracer("test").start_as_current_span(f"{task}-{step}"):
                pass
        return threading.get_ident() != threading.main_thread().ident

    rollouts = await harness.run(agent, *range(20), max_concurrency=20)

    for rollout in rollouts:
        spans = await harness.spans(rollout)
        assert [span.name for span in spans[:3]] == [f"{rollout.input}-{step}" for step in range(3)]
        assert agl.find_final_reward(spans) == 1.0


async def test_at_most_max_concurrency_rollouts_run_at_once(harness: Harness):
    running, most = 0, 0

    async def agent(task):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await harness.run(agent, *range(12), max_concurrency=3)

    assert most == 3


async def test_free_slot_claims_while_another_is_busy(harness: Harness):
    third_ran = asyncio.Event()

    async def agent(task):
        if task == "long":
            await third_ran.wait()
        if task == "third":
            third_ran.set()

    rollouts = await harness.run(agent, "long", "second", "third", max_concurrency=2)

    assert [rollout.status for rollout in rollouts] == ["succeeded"] * 3


async def test_context_variables_reach_a_sync_agent(harness: Harness):
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)

    rollout = await harness.run_one(lambda task: variable.get())

    assert agl.find_final_reward(await harness.spans(rollout)) == 7


# Resources


async def test_each_rollout_gets_the_version_it_was_enqueued_with(harness: Harness):
    seen = []

    def agent(task, resources):
        seen.append((task, {name: resource.template for name, resource in resources.items()}))
        resources.clear()  # a copy

    store = harness.store
    before = await store.enqueue_rollout("before any")
    update = await store.update_resources("rs-1", {"prompt": "one"})  # pyright: ignore[reportArgumentType]
    first = [await store.enqueue_rollout(f"first {n}") for n in (1, 2)]
    await store.update_resources(update.resources_id, {"prompt": "two"})  # pyright: ignore[reportArgumentType]
    second = await store.enqueue_rollout("second")

    runner = harness.runner(max_rollouts=4)
    with runner.run_context(agent=agent, store=store):
        await runner.iter()

    assert seen == [
        ("before any", {}),
        ("first 1", {"prompt": "one"}),
        ("first 2", {"prompt": "one"}),
        ("second", {"prompt": "two"}),
    ]
    assert len(await store.wait_for_rollouts([each.rollout_id for each in (before, *first, second)])) == 4


# Stopping


@over_http_too
async def test_runner_ends_after_max_rollouts(harness: Harness):
    for task in range(5):
        await harness.store.enqueue_rollout(task)
    done = []

    runner = harness.runner(max_rollouts=3, max_concurrency=2)
    with runner.run_context(agent=lambda task: done.append(task), store=harness.store):
        await runner.iter()

    assert sorted(done) == [0, 1, 2]
    assert (await harness.store.statistics())["queue_depth"] == 2


@pytest.mark.parametrize("kind", [threading.Event, asyncio.Event, multiprocessing.get_context("spawn").Event])
async def test_stop_event_ends_a_waiting_runner(harness: Harness, kind: Any):
    event = kind()
    runner = harness.runner(poll_interval=3600)
    with runner.run_context(agent=lambda task: None, store=harness.store):
        running = asyncio.create_task(runner.iter(event))
        await eventually(lambda: harness.store.get_worker_by_id(runner.worker_id))

        event.set()
        await asyncio.wait_for(running, TIMEOUT)

    # The withdrawn claim takes no rollout.
    rollout = await harness.store.enqueue_rollout("later")
    assert (await harness.store.get_rollout_by_id(rollout.rollout_id)).status == "queuing"


async def test_stopped_runner_lets_a_running_agent_finish(harness: Harness):
    event, started, release = threading.Event(), asyncio.Event(), asyncio.Event()

    async def agent(task):
        started.set()
        await release.wait()
        return 1.0

    rollout = await harness.store.enqueue_rollout("task")
    runner = harness.runner()
    with runner.run_context(agent=agent, store=harness.store):
        running = asyncio.create_task(runner.iter(event))
        await started.wait()
        event.set()
        release.set()
        await running

    ended: Any = (await harness.store.wait_for_rollouts([rollout.rollout_id]))[0]
    assert ended.status == "succeeded"


@over_http_too
async def test_agent_that_exceeds_the_drain_time_is_cancelled_with_a_reason(harness: Harness):
    event, started = threading.Event(), asyncio.Event()

    async def agent(task):
        started.set()
        await asyncio.Event().wait()

    rollout = await harness.store.enqueue_rollout("task")
    runner = harness.runner(drain_seconds=0.01)
    with runner.run_context(agent=agent, store=harness.store):
        running = asyncio.create_task(runner.iter(event))
        await started.wait()
        event.set()
        await running

    ended: Any = (await harness.store.wait_for_rollouts([rollout.rollout_id]))[0]
    assert (ended.status, ended.attempt.status) == ("failed", "unresponsive")
    assert ended.attempt.metadata["reason"] == "its runner was stopped: the stop event was set"


async def test_attempt_lost_with_its_runner_is_retried_and_not_revived_by_a_heartbeat(harness: Harness):
    event, started = threading.Event(), asyncio.Event()

    async def agent(task):
        started.set()
        await asyncio.Event().wait()

    class BeatsAfterTheReport(agl.Hook):
        async def on_rollout_end(self, *, agent, runner, rollout, spans):
            await runner.beat()

    config = agl.RolloutConfig(max_attempts=2, retry_condition=["unresponsive"])
    rollout = await harness.store.enqueue_rollout("task", config=config)
    runner = harness.runner(drain_seconds=0.01)
    with runner.run_context(agent=agent, store=harness.store, hooks=[BeatsAfterTheReport()]):
        running = asyncio.create_task(runner.iter(event))
        await started.wait()
        event.set()
        await running

    waiting: Any = await harness.store.get_rollout_by_id(rollout.rollout_id)
    assert (waiting.status, waiting.attempt.status) == ("requeuing", "unresponsive")


async def test_cancelled_runner_ends_its_attempts_and_raises(harness: Harness):
    started, cleaned_up = asyncio.Event(), []

    async def agent(task):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.append(task)

    rollout = await harness.store.enqueue_rollout("task")
    runner = harness.runner()
    with runner.run_context(agent=agent, store=harness.store):
        running = asyncio.create_task(runner.iter())
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    ended: Any = (await harness.store.wait_for_rollouts([rollout.rollout_id]))[0]
    assert ended.attempt.metadata["reason"] == "its runner was cancelled"
    assert cleaned_up == ["task"]


@over_http_too
async def test_rollout_that_has_not_started_is_returned_to_the_queue(harness: Harness):
    started = asyncio.Event()

    class Slow(agl.Hook):
        async def on_rollout_start(self, **_):
            started.set()
            await asyncio.sleep(0.1)

    rollout = await harness.store.enqueue_rollout("task")
    runner = harness.runner()
    with runner.run_context(agent=lambda task: 1.0, store=harness.store, hooks=[Slow()]):
        running = asyncio.create_task(runner.iter())
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    assert (await harness.store.get_rollout_by_id(rollout.rollout_id)).status == "requeuing"


async def test_sigterm_lets_agents_finish_and_then_exits(harness: Harness):
    started, release = asyncio.Event(), asyncio.Event()

    async def agent(task):
        started.set()
        await release.wait()
        return 1.0

    rollout = await harness.store.enqueue_rollout("task")
    runner = harness.runner()

    async def send_sigterm():
        await started.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        release.set()

    with runner.run_context(agent=agent, store=harness.store):
        sending = asyncio.create_task(send_sigterm())
        with pytest.raises(SystemExit) as caught:
            await runner.iter()
        await sending

    assert caught.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ended: Any = (await harness.store.wait_for_rollouts([rollout.rollout_id]))[0]
    assert ended.status == "succeeded"


async def test_runner_leaves_no_thread_running(harness: Harness):
    before = set(threading.enumerate())

    await harness.run(lambda task: 1.0, "a", "b")

    assert set(threading.enumerate()) <= before


# An unreachable store


class Flaky:
    """A store whose named operations fail the first times."""

    def __init__(self, store: Any, failures: int, error: Exception, *names: str) -> None:
        self._store, self._error = store, error
        self._left = dict.fromkeys(names, failures)

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)

        async def flaky(*args: Any, **kwargs: Any) -> Any:
            if self._left.get(name, 0) > 0:
                self._left[name] -= 1
                raise self._error
            return await operation(*args, **kwargs)

        return flaky


async def test_unreachable_store_is_retried_and_logged_once(harness: Harness, caplog: pytest.LogCaptureFixture):
    await harness.store.add_resources({"prompt": "hello"})  # pyright: ignore[reportArgumentType]
    rollout = await harness.store.enqueue_rollout("task")
    unreachable = StoreUnavailable("no response")
    store: Any = Flaky(
        harness.store, 3, unreachable, "dequeue_rollout", "get_resources_by_id", "update_attempt", "update_worker"
    )

    runner = harness.runner(max_rollouts=1)
    with caplog.at_level(logging.INFO), runner.run_context(agent=lambda task: 1.0, store=store):
        await runner.iter()

    ended: Any = (await harness.store.wait_for_rollouts([rollout.rollout_id]))[0]
    assert ended.status == "succeeded"
    lines = [record.getMessage() for record in caplog.records]
    # Once for each outage, at the claim and at the resources. Spans and report wait in the tracer's pipeline.
    assert lines.count("[Worker 0] The store is unreachable (no response); retrying until it responds.") == 2
    assert lines.count("[Worker 0] The store is reachable again.") == 2


async def test_unreachable_store_is_retried_with_growing_delays(harness: Harness):
    await harness.store.enqueue_rollout("task")
    store: Any = Flaky(harness.store, 3, StoreUnavailable("no response"), "dequeue_rollout")

    runner = harness.runner(max_rollouts=1)
    with runner.run_context(agent=lambda task: 1.0, store=store):
        start = time.monotonic()
        await runner.iter()

    # 0.1, 0.2 and 0.4 s; jitter takes up to half of each away.
    assert time.monotonic() - start >= 0.35


async def test_store_that_refuses_the_runner_ends_the_loop(harness: Harness):
    store: Any = Flaky(harness.store, 1, Unauthorized(), "dequeue_rollout")
    runner = harness.runner()

    with runner.run_context(agent=lambda task: 1.0, store=store), pytest.raises(Unauthorized):
        await runner.iter()
