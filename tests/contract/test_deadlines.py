"""Deadlines: they fire by the store's own timer, with and without traffic, and at most a second late."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest

from agentlightning.errors import Conflict
from agentlightning.store import LightningStore
from agentlightning.types import AttemptedRollout, EnqueueRolloutRequest, RolloutConfig

from ..timing import quickest
from .making import DEADLINES, LONG_WAIT, claimed, eventually, found, soon, span, statuses

# Deadlines depend on the clock of the database, not on the way to the store.
pytestmark = pytest.mark.ways("file", "postgres")

SILENT = RolloutConfig(unresponsive_seconds=0.2)
SHORT = RolloutConfig(timeout_seconds=0.2)
WITHOUT_DEADLINE = RolloutConfig(max_attempts=2)


def retried(config: RolloutConfig, *condition: Any) -> RolloutConfig:
    return config.model_copy(update={"max_attempts": 2, "retry_condition": list(condition)})


async def ended_rollout(store: LightningStore, attempted: AttemptedRollout) -> Any:
    (rollout,) = await soon(store.wait_for_rollouts([attempted.rollout_id]))
    return rollout


async def test_timeout_fires_within_a_second_on_an_idle_store(store: LightningStore) -> None:
    async def a_timeout_of_a_second() -> float:
        attempted = await claimed(store, config=RolloutConfig(timeout_seconds=1))
        began = time.monotonic()

        rollout = await ended_rollout(store, attempted)

        seconds = time.monotonic() - began
        attempt = rollout.attempt
        assert (rollout.status, attempt.status) == ("failed", "timeout")
        assert attempt.metadata == {"reason": "took longer than timeout_seconds=1"}
        assert seconds >= 0.9
        assert attempt.end_time - attempt.start_time >= 1
        return max(seconds, attempt.end_time - attempt.start_time)

    assert await quickest(a_timeout_of_a_second, 2) <= 2


@pytest.mark.parametrize("how", ["claimed", "started", "retried by hand"])
async def test_every_kind_of_attempt_has_a_deadline(store: LightningStore, how: str) -> None:
    match how:
        case "claimed":
            attempted = await claimed(store, config=SHORT)
        case "started":
            attempted = await store.start_rollout("task", config=SHORT)
        case _:
            rollout = await store.enqueue_rollout("task", config=SHORT)
            attempted = await store.start_attempt(rollout.rollout_id)

    rollout = await ended_rollout(store, attempted)

    assert (rollout.status, rollout.attempt.status) == ("failed", "timeout")


async def test_heartbeats_do_not_extend_a_timeout(store: LightningStore) -> None:
    attempted = await claimed(store, config=RolloutConfig(timeout_seconds=0.5, unresponsive_seconds=60))
    waiting = asyncio.create_task(ended_rollout(store, attempted))
    n = 0
    while not waiting.done():
        await store.add_span(span(attempted, n := n + 1))

    assert (await waiting).attempt.status == "timeout"


async def test_silent_attempt_becomes_unresponsive(store: LightningStore) -> None:
    attempted = await claimed(store, config=SILENT, worker_id="worker-1")

    rollout = await ended_rollout(store, attempted)

    assert (rollout.status, rollout.attempt.status) == ("failed", "unresponsive")
    assert rollout.attempt.metadata == {"reason": "no heartbeat and no span for 0.2 seconds"}
    worker = await store.get_worker_by_id("worker-1")
    assert worker is not None
    assert worker.status == "unknown"


@pytest.mark.parametrize("kind", ["span", "heartbeat", "report"])
async def test_heartbeats_keep_an_attempt_alive(store: LightningStore, kind: str) -> None:
    alive = False
    for seconds in DEADLINES:
        config = RolloutConfig(unresponsive_seconds=seconds)
        attempted = await claimed(store, config=config, worker_id="worker-1")
        witness = await store.start_rollout("a silent attempt that starts later", config=config)
        longest_silence = await send_heartbeats(
            store, attempted, kind, until=asyncio.create_task(ended_rollout(store, witness))
        )
        alive = (await found(store, attempted)).status == "running"
        assert (await ended_rollout(store, attempted)).attempt.status == "unresponsive"
        if longest_silence < seconds / 2:
            break

    assert alive


async def send_heartbeats(
    store: LightningStore, attempted: AttemptedRollout, kind: str, *, until: asyncio.Task[Any]
) -> float:
    """Send heartbeats until the task is done and return the longest time between two."""
    longest, last, n = 0.0, time.monotonic(), 0
    while not until.done():
        with suppress(Conflict):  # the deadline has passed on a slow machine
            match kind:
                case "span":
                    await store.add_span(span(attempted, n := n + 1))
                case "heartbeat":
                    await store.update_worker("worker-1")
                case _:
                    ids = attempted.rollout_id, attempted.attempt.attempt_id
                    await store.update_attempt(*ids, last_heartbeat_time=time.time())
        await asyncio.wait({until}, timeout=0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return longest


@pytest.mark.parametrize(("config", "lapse"), [(SHORT, "timeout"), (SILENT, "unresponsive")])
async def test_expired_attempt_is_retried_by_its_condition(
    store: LightningStore, config: RolloutConfig, lapse: Any
) -> None:
    first = await claimed(store, config=retried(config, lapse), worker_id="worker-1")
    await eventually(store, first, lambda now: now.status == "requeuing")
    await store.update_rollout(first.rollout_id, config=WITHOUT_DEADLINE)

    second = await soon(store.dequeue_rollout(worker_id="worker-2"))

    assert (second.rollout_id, second.attempt.sequence_id) == (first.rollout_id, 2)
    assert await statuses(store, first) == ("preparing", lapse, "preparing")
    with pytest.raises(Conflict, match=first.attempt.attempt_id):
        await store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="succeeded")
    await store.update_attempt(second.rollout_id, second.attempt.attempt_id, status="succeeded")
    assert await statuses(store, first) == ("succeeded", lapse, "succeeded")


async def test_second_attempt_has_its_own_deadline(store: LightningStore) -> None:
    first = await claimed(store, config=retried(SHORT, "timeout"))
    second = await soon(store.dequeue_rollout(wait=LONG_WAIT))

    rollout = await ended_rollout(store, first)

    assert await statuses(store, first) == ("failed", "timeout", "timeout")
    assert rollout.attempt.end_time - second.attempt.start_time >= 0.2


async def test_report_revives_an_unresponsive_attempt_of_a_queued_rollout(store: LightningStore) -> None:
    back: tuple[str, ...] = ()
    for seconds in DEADLINES:
        attempted = await claimed(store, config=retried(RolloutConfig(unresponsive_seconds=seconds), "unresponsive"))
        lost = await eventually(store, attempted, lambda now: now.status == "requeuing")
        assert lost.attempt.status == "unresponsive"

        began = time.monotonic()
        await store.update_attempt(attempted.rollout_id, "latest", status="running")
        back = await statuses(store, attempted)
        in_time = time.monotonic() - began < seconds

        again_lost = await eventually(store, attempted, lambda now: now.status != "running")
        assert (again_lost.status, again_lost.attempt.status) == ("requeuing", "unresponsive")
        await store.update_rollout(attempted.rollout_id, status="cancelled")
        if in_time:
            break

    assert back == ("running", "running")


async def test_recovered_attempt_keeps_its_timeout(store: LightningStore) -> None:
    for seconds in DEADLINES:
        config = retried(RolloutConfig(unresponsive_seconds=seconds, timeout_seconds=5 * seconds), "unresponsive")
        attempted = await claimed(store, config=config)
        lost = await eventually(store, attempted, lambda now: now.status in ("requeuing", "failed"))
        if lost.status == "requeuing":
            break
    n = 0
    waiting = asyncio.create_task(ended_rollout(store, attempted))

    while not waiting.done():
        await store.add_span(span(attempted, n := n + 1))

    assert await statuses(store, attempted) == ("failed", "timeout")


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
async def test_deadline_does_not_change_an_ended_attempt(store: LightningStore, end: Any) -> None:
    for seconds in DEADLINES:
        short = RolloutConfig(timeout_seconds=seconds, unresponsive_seconds=seconds)
        attempted = await claimed(store, config=short)
        with suppress(Conflict):
            await store.update_rollout(attempted.rollout_id, status=end)
            break
    before = await found(store, attempted), await store.query_attempts(attempted.rollout_id)

    witness = await claimed(store, config=short)
    await ended_rollout(store, witness)

    assert before[0].status == end
    assert (await found(store, attempted), await store.query_attempts(attempted.rollout_id)) == before


async def test_queued_rollout_has_no_deadline(store: LightningStore) -> None:
    config = RolloutConfig(timeout_seconds=0.1, unresponsive_seconds=0.1)
    rollout = await store.enqueue_rollout("task", config=config)

    witness = await store.start_rollout("witness", config=RolloutConfig(timeout_seconds=0.3))
    await ended_rollout(store, witness)

    assert await found(store, rollout) == rollout


async def test_changed_config_moves_the_deadline(store: LightningStore) -> None:
    attempted = await claimed(store, config=RolloutConfig(timeout_seconds=600))

    await store.update_rollout(attempted.rollout_id, config=SHORT)

    assert (await ended_rollout(store, attempted)).attempt.status == "timeout"


async def test_requeued_rollout_has_no_deadline(store: LightningStore) -> None:
    for seconds in DEADLINES:
        attempted = await claimed(store, config=RolloutConfig(timeout_seconds=seconds))
        with suppress(Conflict):
            await store.update_rollout(attempted.rollout_id, status="queuing")
            break

    witness = await store.start_rollout("witness", config=RolloutConfig(timeout_seconds=seconds))
    await ended_rollout(store, witness)

    assert await statuses(store, attempted) == ("queuing", "failed")


async def test_hundred_simultaneous_deadlines_all_fire(store: LightningStore) -> None:
    config = RolloutConfig(timeout_seconds=0.5)

    async def a_hundred() -> float:
        requests = [EnqueueRolloutRequest(input=n, config=config) for n in range(100)]
        rollouts = await store.enqueue_many_rollouts(requests)
        await store.dequeue_many_rollouts(limit=100)
        began = time.monotonic()

        waited: Any = await soon(store.wait_for_rollouts([rollout.rollout_id for rollout in rollouts]))

        assert [(rollout.status, rollout.attempt.status) for rollout in waited] == [("failed", "timeout")] * 100
        return time.monotonic() - began

    assert await quickest(a_hundred, 2) < 2


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
async def test_wall_clock_jump_does_not_affect_deadlines(
    store: LightningStore, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    unaffected = await claimed(store, "unaffected", config=RolloutConfig(timeout_seconds=600, unresponsive_seconds=600))
    short = await store.start_rollout("short", config=RolloutConfig(timeout_seconds=0.5))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)

    assert (await ended_rollout(store, short)).attempt.status == "timeout"
    later = await store.start_rollout("later", config=SHORT)
    assert (await ended_rollout(store, later)).attempt.status == "timeout"

    assert await statuses(store, unaffected) == ("preparing", "preparing")
