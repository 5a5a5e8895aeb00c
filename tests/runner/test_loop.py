"""Claiming, running many at once, and stopping."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import multiprocessing
import os
import signal
import threading
from typing import Any

import pytest
from opentelemetry import trace

import agentlightning as agl
from agentlightning.errors import StoreUnavailable, Unauthorized
from tests.processes import PATIENCE

from .conftest import Workshop, eventually, everywhere

pytestmark = everywhere

# Many at once


async def test_fifty_async_rollouts_at_once_each_get_exactly_their_own_spans(workshop: Workshop):
    everyone = asyncio.Barrier(50)

    async def agent(task):
        for step in range(3):
            await everyone.wait()
            with trace.get_tracer("test").start_as_current_span(f"{task}-{step}"):
                await asyncio.sleep(0)
        return task

    rollouts = await workshop.run(agent, *range(50), max_concurrency=50)

    assert [rollout.status for rollout in rollouts] == ["succeeded"] * 50
    for rollout in rollouts:
        task = rollout.input
        names = [span.name for span in await workshop.spans(rollout)]
        assert names[:3] == [f"{task}-0", f"{task}-1", f"{task}-2"]
        assert len(names) == 4
        assert agl.find_final_reward(await workshop.spans(rollout)) == task


async def test_sync_rollouts_at_once_run_in_threads_and_get_exactly_their_own_spans(workshop: Workshop):
    everyone = threading.Barrier(20)

    def agent(task):
        for step in range(3):
            everyone.wait()
            with trace.get_tracer("test").start_as_current_span(f"{task}-{step}"):
                pass
        return threading.get_ident() != threading.main_thread().ident

    rollouts = await workshop.run(agent, *range(20), max_concurrency=20)

    for rollout in rollouts:
        spans = await workshop.spans(rollout)
        assert [span.name for span in spans[:3]] == [f"{rollout.input}-{step}" for step in range(3)]
        assert agl.find_final_reward(spans) == 1.0


async def test_no_more_than_max_concurrency_run_at_once(workshop: Workshop):
    running, most = 0, 0

    async def agent(task):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await workshop.run(agent, *range(12), max_concurrency=3)

    assert most == 3


async def test_a_free_slot_claims_while_another_is_busy(workshop: Workshop):
    third_ran = asyncio.Event()

    async def agent(task):
        if task == "long":
            await third_ran.wait()
        if task == "third":
            third_ran.set()

    rollouts = await workshop.run(agent, "long", "second", "third", max_concurrency=2)

    assert [rollout.status for rollout in rollouts] == ["succeeded"] * 3


async def test_context_variables_reach_a_sync_agent(workshop: Workshop):
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)

    rollout = await workshop.run_one(lambda task: variable.get())

    assert agl.find_final_reward(await workshop.spans(rollout)) == 7


# Resources


async def test_each_rollout_gets_the_version_it_was_enqueued_with(workshop: Workshop):
    seen = []

    def agent(task, resources):
        seen.append((task, {name: resource.template for name, resource in resources.items()}))
        resources.clear()  # its own copy

    store = workshop.store
    before = await store.enqueue_rollout("before any")
    update = await store.update_resources("rs-1", {"prompt": "one"})
    first = [await store.enqueue_rollout(f"first {n}") for n in (1, 2)]
    await store.update_resources(update.resources_id, {"prompt": "two"})
    second = await store.enqueue_rollout("second")

    runner = workshop.runner(max_rollouts=4)
    with runner.run_context(agent=agent, store=store):
        await runner.iter()

    assert seen == [
        ("before any", {}),
        ("first 1", {"prompt": "one"}),
        ("first 2", {"prompt": "one"}),
        ("second", {"prompt": "two"}),
    ]
    assert len(await store.wait_for_rollouts([each.rollout_id for each in (before, *first, second)])) == 4


# How it ends


async def test_max_rollouts_is_how_many_it_carries_out(workshop: Workshop):
    for task in range(5):
        await workshop.store.enqueue_rollout(task)
    done = []

    runner = workshop.runner(max_rollouts=3, max_concurrency=2)
    with runner.run_context(agent=lambda task: done.append(task), store=workshop.store):
        await runner.iter()

    assert sorted(done) == [0, 1, 2]
    assert (await workshop.store.statistics())["queue_depth"] == 2


@pytest.mark.parametrize("kind", [threading.Event, asyncio.Event, multiprocessing.get_context("spawn").Event])
async def test_a_stop_event_ends_a_waiting_runner(workshop: Workshop, kind: Any):
    event = kind()
    runner = workshop.runner(poll_interval=3600)
    with runner.run_context(agent=lambda task: None, store=workshop.store):
        running = asyncio.create_task(runner.iter(event))
        await eventually(lambda: workshop.store.get_worker_by_id(runner.worker_id))

        event.set()
        await asyncio.wait_for(running, PATIENCE)

    # Its withdrawn claim takes nothing any more.
    rollout = await workshop.store.enqueue_rollout("later")
    assert (await workshop.store.get_rollout_by_id(rollout.rollout_id)).status == "queuing"


async def test_when_stopped_it_lets_a_running_agent_finish(workshop: Workshop):
    event, begun, go_on = threading.Event(), asyncio.Event(), asyncio.Event()

    async def agent(task):
        begun.set()
        await go_on.wait()
        return 1.0

    rollout = await workshop.store.enqueue_rollout("task")
    runner = workshop.runner()
    with runner.run_context(agent=agent, store=workshop.store):
        running = asyncio.create_task(runner.iter(event))
        await begun.wait()
        event.set()
        go_on.set()
        await running

    [ended] = await workshop.store.wait_for_rollouts([rollout.rollout_id])
    assert ended.status == "succeeded"


async def test_an_agent_that_does_not_finish_in_time_is_ended_with_a_reason(workshop: Workshop):
    event, begun = threading.Event(), asyncio.Event()

    async def agent(task):
        begun.set()
        await asyncio.Event().wait()

    rollout = await workshop.store.enqueue_rollout("task")
    runner = workshop.runner(drain_seconds=0.01)
    with runner.run_context(agent=agent, store=workshop.store):
        running = asyncio.create_task(runner.iter(event))
        await begun.wait()
        event.set()
        await running

    [ended] = await workshop.store.wait_for_rollouts([rollout.rollout_id])
    assert (ended.status, ended.attempt.status) == ("failed", "unresponsive")
    assert ended.attempt.metadata["reason"] == "its runner was stopped: its stop event was set"


async def test_an_attempt_that_ends_with_its_runner_is_retried_like_one_that_was_lost(workshop: Workshop):
    event, begun = threading.Event(), asyncio.Event()

    async def agent(task):
        begun.set()
        await asyncio.Event().wait()

    class BeatsAtTheEnd(agl.Hook):
        async def on_rollout_end(self, *, agent, runner, rollout, spans):
            await runner.beat()

    config = agl.RolloutConfig(max_attempts=2, retry_condition=["unresponsive"])
    rollout = await workshop.store.enqueue_rollout("task", config=config)
    runner = workshop.runner(drain_seconds=0.01)
    with runner.run_context(agent=agent, store=workshop.store, hooks=[BeatsAtTheEnd()]):
        running = asyncio.create_task(runner.iter(event))
        await begun.wait()
        event.set()
        await running

    waiting = await workshop.store.get_rollout_by_id(rollout.rollout_id)
    assert (waiting.status, waiting.attempt.status) == ("requeuing", "unresponsive")


async def test_a_cancelled_runner_ends_what_it_holds_and_passes_the_cancellation_on(workshop: Workshop):
    begun, tidied = asyncio.Event(), []

    async def agent(task):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            tidied.append(task)

    rollout = await workshop.store.enqueue_rollout("task")
    runner = workshop.runner()
    with runner.run_context(agent=agent, store=workshop.store):
        running = asyncio.create_task(runner.iter())
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    [ended] = await workshop.store.wait_for_rollouts([rollout.rollout_id])
    assert ended.attempt.metadata["reason"] == "its runner was cancelled"
    assert tidied == ["task"]


async def test_what_has_not_begun_goes_back_to_the_queue(workshop: Workshop):
    begun = asyncio.Event()

    class Slow(agl.Hook):
        async def on_rollout_start(self, **_):
            begun.set()
            await asyncio.sleep(0.1)

    rollout = await workshop.store.enqueue_rollout("task")
    runner = workshop.runner()
    with runner.run_context(agent=lambda task: 1.0, store=workshop.store, hooks=[Slow()]):
        running = asyncio.create_task(runner.iter())
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    assert (await workshop.store.get_rollout_by_id(rollout.rollout_id)).status == "requeuing"


async def test_sigterm_lets_it_finish_and_then_ends_the_program(workshop: Workshop):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def agent(task):
        begun.set()
        await go_on.wait()
        return 1.0

    rollout = await workshop.store.enqueue_rollout("task")
    runner = workshop.runner()

    async def send_sigterm():
        await begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        go_on.set()

    with runner.run_context(agent=agent, store=workshop.store):
        sending = asyncio.create_task(send_sigterm())
        with pytest.raises(SystemExit) as caught:
            await runner.iter()
        await sending

    assert caught.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    [ended] = await workshop.store.wait_for_rollouts([rollout.rollout_id])
    assert ended.status == "succeeded"


async def test_a_runner_leaves_no_thread_behind(workshop: Workshop):
    before = set(threading.enumerate())

    await workshop.run(lambda task: 1.0, "a", "b")

    assert set(threading.enumerate()) <= before


# A store that is away


class Flaky:
    """The store, but these operations fail at first."""

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


async def test_a_store_that_is_away_is_waited_for_and_said_once(workshop: Workshop, caplog: pytest.LogCaptureFixture):
    await workshop.store.add_resources({"prompt": "hello"})
    rollout = await workshop.store.enqueue_rollout("task")
    away = StoreUnavailable("no answer.")
    store: Any = Flaky(
        workshop.store, 3, away, "dequeue_rollout", "get_resources_by_id", "update_attempt", "update_worker"
    )

    runner = workshop.runner(max_rollouts=1)
    with caplog.at_level(logging.INFO), runner.run_context(agent=lambda task: 1.0, store=store):
        await runner.iter()

    [ended] = await workshop.store.wait_for_rollouts([rollout.rollout_id])
    assert ended.status == "succeeded"
    lines = [record.getMessage() for record in caplog.records]
    # Once for each time it was away: at the claim and the resources. Spans and report wait in the tracer's pipeline.
    assert lines.count("[Worker 0] The store is away: no answer. Waiting for it.") == 2
    assert lines.count("[Worker 0] The store is back.") == 2


async def test_a_store_that_refuses_the_runner_ends_the_loop(workshop: Workshop):
    store: Any = Flaky(workshop.store, 1, Unauthorized(), "dequeue_rollout")
    runner = workshop.runner()

    with runner.run_context(agent=lambda task: 1.0, store=store), pytest.raises(Unauthorized):
        await runner.iter()
