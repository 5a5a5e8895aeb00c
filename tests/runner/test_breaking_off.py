"""Cancelled, timed out, superseded: how an attempt is broken off while its agent runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.errors import Conflict
from agentlightning.runner import invoke
from tests.processes import PATIENCE

from .conftest import Workshop, eventually, everywhere

pytestmark = everywhere


class Stubborn:
    """An agent that runs until the test says so, cancelled or not."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def blocking(self, task: Any) -> float:
        self.begun.set()
        self.go_on.wait(PATIENCE)
        return 1.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invoke, "CANCEL_SECONDS", 0.05)


async def test_cancelling_a_rollout_cancels_its_async_agent(workshop: Workshop, caplog: pytest.LogCaptureFixture):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def agent(task):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            return 1.0  # too late: a cancelled task is not a success

    rollout = await workshop.store.enqueue_rollout("task")
    runner = workshop.runner(max_rollouts=1)
    with caplog.at_level(logging.INFO), runner.run_context(agent=agent, store=workshop.store):
        running = asyncio.create_task(runner.iter())
        await begun.wait()
        await workshop.store.update_rollout(rollout.rollout_id, status="cancelled")
        await asyncio.wait_for(ended.wait(), PATIENCE)
        await running

    final = await workshop.store.get_rollout_by_id(rollout.rollout_id)
    assert final.status == "cancelled"
    assert await workshop.spans(final) == []
    about_it = [record.getMessage() for record in caplog.records if rollout.rollout_id in record.getMessage()]
    assert len(about_it) == 1
    assert about_it[0].endswith("the store has given up this attempt (cancelled, timed out or superseded)")


async def test_cancelling_a_rollout_frees_the_slot_of_its_sync_agent(workshop: Workshop):
    stubborn = Stubborn()

    def agent(task):
        return stubborn.blocking(task) if task == "stuck" else 0.5

    stuck = await workshop.store.enqueue_rollout("stuck")
    other = await workshop.store.enqueue_rollout("other")
    runner = workshop.runner(max_rollouts=2)
    with runner.run_context(agent=agent, store=workshop.store):
        running = asyncio.create_task(runner.iter())
        await asyncio.to_thread(stubborn.begun.wait, PATIENCE)
        await workshop.store.update_rollout(stuck.rollout_id, status="cancelled")
        await running
    stubborn.go_on.set()

    statuses = [each.status for each in await workshop.store.query_rollouts([stuck.rollout_id, other.rollout_id])]
    assert statuses == ["cancelled", "succeeded"]


async def test_an_agent_is_cancelled_after_its_next_span_however_far_the_next_heartbeat_is(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
):
    begun, ended, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def agent(task):
        agl.emit_message("before")
        begun.set()
        await go_on.wait()
        agl.emit_message("after")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    rollout = await workshop.store.enqueue_rollout("task")
    runner = workshop.runner(max_rollouts=1, heartbeat_interval=3600.0)
    with caplog.at_level(logging.INFO), runner.run_context(agent=agent, store=workshop.store):
        running = asyncio.create_task(runner.iter())
        await begun.wait()
        await eventually(lambda: _busy_heartbeats(workshop.store))
        await workshop.store.update_rollout(rollout.rollout_id, status="cancelled")
        go_on.set()
        await asyncio.wait_for(ended.wait(), PATIENCE)
        await running

    final = await workshop.store.get_rollout_by_id(rollout.rollout_id)
    assert final.status == "cancelled"
    with pytest.raises(Conflict):
        await workshop.store.update_attempt(rollout.rollout_id, final.attempt.attempt_id, status="succeeded")
    about_it = [record.getMessage() for record in caplog.records if rollout.rollout_id in record.getMessage()]
    assert len(about_it) == 1
    assert about_it[0].endswith("the store has given up this attempt (cancelled, timed out or superseded)")


async def test_a_blocked_event_loop_does_not_hold_up_the_heartbeat(workshop: Workshop):
    heard: set[float | None] = set()

    async def heard_again_and_again() -> bool:
        [worker] = await workshop.store.query_workers()
        heard.add(worker.last_heartbeat_time)
        return len(heard) > 3

    async def agent(task):
        listening = threading.Thread(target=lambda: asyncio.run(eventually(heard_again_and_again)))
        listening.start()
        listening.join()  # the misbehaviour under test
        return 1.0

    rollout = await workshop.run_one(agent)

    assert (rollout.status, len(heard)) == ("succeeded", 4)


async def test_a_rollout_is_soon_seen_to_run_although_the_next_heartbeat_is_far(workshop: Workshop):
    async def agent(task, rollout):
        async def is_running():
            return (await workshop.store.get_rollout_by_id(rollout.rollout_id)).status == "running"

        await eventually(is_running)
        return 1.0

    rollout = await workshop.run_one(agent, heartbeat_interval=3600.0)

    assert rollout.status == "succeeded"


@pytest.mark.parametrize("kind", ["async", "sync", "ignoring its cancellation"])
async def test_an_agent_that_takes_too_long_is_cancelled_and_reported(workshop: Workshop, kind: str):
    stubborn, begun, cancelled = Stubborn(), [], []

    async def waiting(task):
        begun.append(task)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(task)
            raise

    async def ignoring(task):
        begun.append(task)
        while not stubborn.go_on.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                cancelled.append(task)

    agents = {"async": waiting, "sync": stubborn.blocking, "ignoring its cancellation": ignoring}
    rollout = await workshop.run_one(agents[kind], config=agl.RolloutConfig(timeout_seconds=0.3))
    stubborn.go_on.set()

    assert (rollout.status, rollout.attempt.status) == ("failed", "timeout")
    assert rollout.attempt.metadata["reason"] == "took longer than timeout_seconds=0.3"
    assert cancelled == begun  # on a machine with other things to do it may not have begun
    if kind == "ignoring its cancellation":
        await eventually(lambda: not invoke._left_behind)


async def test_a_timed_out_rollout_is_retried_where_that_is_configured(workshop: Workshop):
    tries = []

    async def agent(task):
        tries.append(task)
        if len(tries) == 1:
            await asyncio.Event().wait()
        return 1.0

    config = agl.RolloutConfig(timeout_seconds=1, max_attempts=2, retry_condition=["timeout"])
    rollout = await workshop.store.enqueue_rollout("task", config=config)
    runner = workshop.runner(max_rollouts=2)
    with runner.run_context(agent=agent, store=workshop.store):
        await runner.iter()

    [ended] = await workshop.store.wait_for_rollouts([rollout.rollout_id])
    assert ended.status == "succeeded"
    assert [each.status for each in await workshop.store.query_attempts(rollout.rollout_id)] == ["timeout", "succeeded"]


async def test_a_result_that_comes_too_late_is_one_line_in_the_log(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
):
    async def agent(task, rollout):
        # Before the runner can hear of it: its heartbeat is an hour away.
        await workshop.store.update_rollout(rollout.rollout_id, status="cancelled")
        return 1.0

    with caplog.at_level(logging.INFO):
        cancelled, after = await workshop.run(agent, "a", "b", heartbeat_interval=3600.0)

    assert (cancelled.status, after.status) == ("cancelled", "cancelled")
    late = [record.getMessage() for record in caplog.records if "too late" in record.getMessage()]
    assert late[0] == (
        f"[Worker 0 | Rollout {cancelled.rollout_id}] Its result comes too late and is not kept: "
        f"rollout {cancelled.rollout_id} has already been cancelled"
    )
    assert len(late) == 2


async def test_a_superseded_attempt_is_broken_off(workshop: Workshop):
    begun = asyncio.Event()

    async def agent(task):
        begun.set()
        await asyncio.Event().wait()

    rollout = await workshop.store.enqueue_rollout("task")
    runner = workshop.runner(max_rollouts=1)
    with runner.run_context(agent=agent, store=workshop.store):
        running = asyncio.create_task(runner.iter())
        await begun.wait()
        second = await workshop.store.start_attempt(rollout.rollout_id)
        await running

    now = await workshop.store.get_rollout_by_id(rollout.rollout_id)
    assert now.attempt.attempt_id == second.attempt.attempt_id
    assert now.attempt.status == "preparing"


async def _busy_heartbeats(store: agl.LightningStore) -> list[Any]:
    """Workers whose last heartbeat told of an attempt; the next is an hour away."""
    return [each for each in await store.query_workers() if (each.heartbeat_stats or {}).get("running")]
