"""Cancellation of attempts while their agents run: cancelled, timed out, superseded."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.errors import Conflict
from agentlightning.runner import outcome
from tests.processes import TIMEOUT

from .conftest import Harness, eventually, over_http_too


class BlockingAgent:
    """An agent that runs until the test releases it, even if it is cancelled."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()

    def blocking(self, task: Any) -> float:
        self.started.set()
        self.release.wait(TIMEOUT)
        return 1.0


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "CANCELLATION_GRACE_SECONDS", 0.05)


def runner_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the runner logged; the access log of the store may be captured as well."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("agentlightning.runner")]


@over_http_too
async def test_cancelled_rollout_cancels_its_async_agent(harness: Harness, caplog: pytest.LogCaptureFixture):
    started, ended = asyncio.Event(), asyncio.Event()

    async def agent(task):
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            return 1.0  # too late: a cancelled task is not a success

    rollout = await harness.store.enqueue_rollout("task")
    runner = harness.runner(max_rollouts=1)
    with caplog.at_level(logging.INFO), runner.run_context(agent=agent, store=harness.store):
        running = asyncio.create_task(runner.iter())
        await started.wait()
        await harness.store.update_rollout(rollout.rollout_id, status="cancelled")
        await asyncio.wait_for(ended.wait(), TIMEOUT)
        await running

    final: Any = await harness.store.get_rollout_by_id(rollout.rollout_id)
    assert final.status == "cancelled"
    assert await harness.spans(final) == []
    log_lines = [line for line in runner_lines(caplog) if rollout.rollout_id in line]
    assert len(log_lines) == 1
    assert log_lines[0].endswith("the store has ended this attempt (cancelled, timed out or superseded)")


async def test_cancelled_rollout_frees_the_slot_of_its_sync_agent(harness: Harness):
    blocking_agent = BlockingAgent()

    def agent(task):
        return blocking_agent.blocking(task) if task == "stuck" else 0.5

    stuck = await harness.store.enqueue_rollout("stuck")
    other = await harness.store.enqueue_rollout("other")
    runner = harness.runner(max_rollouts=2)
    with runner.run_context(agent=agent, store=harness.store):
        running = asyncio.create_task(runner.iter())
        await asyncio.to_thread(blocking_agent.started.wait, TIMEOUT)
        await harness.store.update_rollout(stuck.rollout_id, status="cancelled")
        await running
    blocking_agent.release.set()

    statuses = [each.status for each in await harness.store.query_rollouts([stuck.rollout_id, other.rollout_id])]
    assert statuses == ["cancelled", "succeeded"]


@over_http_too
async def test_agent_is_cancelled_after_its_next_span_without_a_heartbeat(
    harness: Harness, caplog: pytest.LogCaptureFixture
):
    started, ended, release = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def agent(task):
        agl.emit_message("before")
        started.set()
        await release.wait()
        agl.emit_message("after")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    rollout = await harness.store.enqueue_rollout("task")
    runner = harness.runner(max_rollouts=1, heartbeat_interval=3600.0)
    with caplog.at_level(logging.INFO), runner.run_context(agent=agent, store=harness.store):
        running = asyncio.create_task(runner.iter())
        await started.wait()
        await eventually(lambda: _busy_heartbeats(harness.store))
        await harness.store.update_rollout(rollout.rollout_id, status="cancelled")
        release.set()
        await asyncio.wait_for(ended.wait(), TIMEOUT)
        await running

    final: Any = await harness.store.get_rollout_by_id(rollout.rollout_id)
    assert final.status == "cancelled"
    with pytest.raises(Conflict):
        await harness.store.update_attempt(rollout.rollout_id, final.attempt.attempt_id, status="succeeded")
    log_lines = [line for line in runner_lines(caplog) if rollout.rollout_id in line]
    assert len(log_lines) == 1
    assert log_lines[0].endswith("the store has ended this attempt (cancelled, timed out or superseded)")


async def test_blocked_event_loop_does_not_delay_heartbeats(harness: Harness):
    heartbeat_times: set[float | None] = set()

    async def received_four_heartbeats() -> bool:
        [worker] = await harness.store.query_workers()
        heartbeat_times.add(worker.last_heartbeat_time)
        return len(heartbeat_times) > 3

    async def agent(task):
        watcher = threading.Thread(target=lambda: asyncio.run(eventually(received_four_heartbeats)))
        watcher.start()
        watcher.join()  # the misbehaviour under test
        return 1.0

    rollout = await harness.run_one(agent)

    assert (rollout.status, len(heartbeat_times)) == ("succeeded", 4)


async def test_rollout_is_marked_running_before_the_next_heartbeat_is_due(harness: Harness):
    async def agent(task, rollout):
        async def is_running():
            return (await harness.store.get_rollout_by_id(rollout.rollout_id)).status == "running"

        await eventually(is_running)
        return 1.0

    rollout = await harness.run_one(agent, heartbeat_interval=3600.0)

    assert rollout.status == "succeeded"


@pytest.mark.parametrize("kind", ["async", "sync", "ignoring its cancellation"])
async def test_timed_out_agent_is_cancelled_and_reported(harness: Harness, kind: str):
    blocking_agent, started, cancelled = BlockingAgent(), [], []

    async def waiting(task):
        started.append(task)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(task)
            raise

    async def ignoring(task):
        started.append(task)
        while not blocking_agent.release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                cancelled.append(task)

    agents = {"async": waiting, "sync": blocking_agent.blocking, "ignoring its cancellation": ignoring}
    rollout = await harness.run_one(agents[kind], config=agl.RolloutConfig(timeout_seconds=0.1))
    blocking_agent.release.set()

    assert (rollout.status, rollout.attempt.status) == ("failed", "timeout")
    assert rollout.attempt.metadata["reason"] == "took longer than timeout_seconds=0.1"
    assert cancelled == started  # on a busy machine it may not have started
    if kind == "ignoring its cancellation":
        await eventually(lambda: not outcome._abandoned)


async def test_timed_out_rollout_is_retried_if_configured(harness: Harness):
    tries = []

    async def agent(task):
        tries.append(task)
        if len(tries) == 1:
            await asyncio.Event().wait()
        return 1.0

    config = agl.RolloutConfig(timeout_seconds=0.2, max_attempts=2, retry_condition=["timeout"])
    rollout = await harness.store.enqueue_rollout("task", config=config)
    runner = harness.runner(max_rollouts=2)
    with runner.run_context(agent=agent, store=harness.store):
        await runner.iter()

    [ended] = await harness.store.wait_for_rollouts([rollout.rollout_id])
    assert ended.status == "succeeded"
    assert [each.status for each in await harness.store.query_attempts(rollout.rollout_id)] == ["timeout", "succeeded"]


@over_http_too
async def test_late_result_is_dropped_with_one_log_line(harness: Harness, caplog: pytest.LogCaptureFixture):
    async def agent(task, rollout):
        # The runner does not know: its next heartbeat is an hour away.
        await harness.store.update_rollout(rollout.rollout_id, status="cancelled")
        return 1.0

    with caplog.at_level(logging.INFO):
        cancelled, after = await harness.run(agent, "a", "b", heartbeat_interval=3600.0)

    assert (cancelled.status, after.status) == ("cancelled", "cancelled")
    late = [record.getMessage() for record in caplog.records if "too late" in record.getMessage()]
    assert late[0] == (
        f"[Worker 0 | Rollout {cancelled.rollout_id}] The result arrived too late and was dropped: "
        f"rollout {cancelled.rollout_id} has already been cancelled"
    )
    assert len(late) == 2


async def test_superseded_attempt_is_cancelled(harness: Harness):
    started = asyncio.Event()

    async def agent(task):
        started.set()
        await asyncio.Event().wait()

    rollout = await harness.store.enqueue_rollout("task")
    runner = harness.runner(max_rollouts=1)
    with runner.run_context(agent=agent, store=harness.store):
        running = asyncio.create_task(runner.iter())
        await started.wait()
        second = await harness.store.start_attempt(rollout.rollout_id)
        await running

    now: Any = await harness.store.get_rollout_by_id(rollout.rollout_id)
    assert now.attempt.attempt_id == second.attempt.attempt_id
    assert now.attempt.status == "preparing"


async def _busy_heartbeats(store: agl.LightningStore) -> list[Any]:
    """Return the workers whose last heartbeat included an attempt."""
    return [each for each in await store.query_workers() if (each.heartbeat_stats or {}).get("running")]
