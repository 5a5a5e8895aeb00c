"""Deadlines: kept by the store's own timer, with traffic or without, and at most a second late."""

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
from .making import DEADLINES, WHILE, claimed, eventually, found, soon, span, statuses

SILENT = RolloutConfig(unresponsive_seconds=0.2)
SHORT = RolloutConfig(timeout_seconds=0.2)
PATIENT = RolloutConfig(max_attempts=2)


def again(config: RolloutConfig, *condition: Any) -> RolloutConfig:
    return config.model_copy(update={"max_attempts": 2, "retry_condition": list(condition)})


async def over(store: LightningStore, attempted: AttemptedRollout) -> Any:
    (rollout,) = await soon(store.wait_for_rollouts([attempted.rollout_id]))
    return rollout


async def test_a_timeout_of_a_second_fires_within_two_on_an_idle_store(store: LightningStore) -> None:
    async def a_timeout_of_a_second() -> float:
        attempted = await claimed(store, config=RolloutConfig(timeout_seconds=1))
        began = time.monotonic()

        rollout = await over(store, attempted)

        seconds = time.monotonic() - began
        attempt = rollout.attempt
        assert (rollout.status, attempt.status) == ("failed", "timeout")
        assert attempt.metadata == {"reason": "took longer than timeout_seconds=1"}
        assert seconds >= 0.9
        assert attempt.end_time - attempt.start_time >= 1
        return max(seconds, attempt.end_time - attempt.start_time)

    assert await quickest(a_timeout_of_a_second, 2) <= 2


@pytest.mark.parametrize("how", ["claimed", "started", "retried by hand"])
async def test_every_attempt_has_its_deadline_however_it_began(store: LightningStore, how: str) -> None:
    match how:
        case "claimed":
            attempted = await claimed(store, config=SHORT)
        case "started":
            attempted = await store.start_rollout("task", config=SHORT)
        case _:
            rollout = await store.enqueue_rollout("task", config=SHORT)
            attempted = await store.start_attempt(rollout.rollout_id)

    rollout = await over(store, attempted)

    assert (rollout.status, rollout.attempt.status) == ("failed", "timeout")


async def test_a_timeout_does_not_care_for_signs_of_life(store: LightningStore) -> None:
    attempted = await claimed(store, config=RolloutConfig(timeout_seconds=0.5, unresponsive_seconds=60))
    waiting = asyncio.create_task(over(store, attempted))
    n = 0
    while not waiting.done():
        await store.add_span(span(attempted, n := n + 1))

    assert (await waiting).attempt.status == "timeout"


async def test_silence_is_unresponsive(store: LightningStore) -> None:
    attempted = await claimed(store, config=SILENT, worker_id="worker-1")

    rollout = await over(store, attempted)

    assert (rollout.status, rollout.attempt.status) == ("failed", "unresponsive")
    assert rollout.attempt.metadata == {"reason": "no heartbeat and no span for 0.2 seconds"}
    worker = await store.get_worker_by_id("worker-1")
    assert worker is not None
    assert worker.status == "unknown"


@pytest.mark.parametrize("sign", ["span", "heartbeat", "report"])
async def test_signs_of_life_keep_an_attempt_alive(store: LightningStore, sign: str) -> None:
    alive = False
    for seconds in DEADLINES:
        config = RolloutConfig(unresponsive_seconds=seconds)
        attempted = await claimed(store, config=config, worker_id="worker-1")
        witness = await store.start_rollout("a silent one that began later", config=config)
        longest_silence = await give_signs(store, attempted, sign, until=asyncio.create_task(over(store, witness)))
        alive = (await found(store, attempted)).status == "running"
        assert (await over(store, attempted)).attempt.status == "unresponsive"
        if longest_silence < seconds / 2:
            break

    assert alive


async def give_signs(
    store: LightningStore, attempted: AttemptedRollout, sign: str, *, until: asyncio.Task[Any]
) -> float:
    """The longest time between two of them."""
    longest, last, n = 0.0, time.monotonic(), 0
    while not until.done():
        with suppress(Conflict):  # the machine was late
            match sign:
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
async def test_a_missed_deadline_is_retried_where_the_config_says_so(
    store: LightningStore, config: RolloutConfig, lapse: Any
) -> None:
    first = await claimed(store, config=again(config, lapse), worker_id="worker-1")
    await eventually(store, first, lambda now: now.status == "requeuing")
    await store.update_rollout(first.rollout_id, config=PATIENT)

    second = await soon(store.dequeue_rollout(worker_id="worker-2"))

    assert (second.rollout_id, second.attempt.sequence_id) == (first.rollout_id, 2)
    assert await statuses(store, first) == ("preparing", lapse, "preparing")
    with pytest.raises(Conflict, match=first.attempt.attempt_id):
        await store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="succeeded")
    await store.update_attempt(second.rollout_id, second.attempt.attempt_id, status="succeeded")
    assert await statuses(store, first) == ("succeeded", lapse, "succeeded")


async def test_the_second_attempt_has_a_deadline_of_its_own(store: LightningStore) -> None:
    first = await claimed(store, config=again(SHORT, "timeout"))
    second = await soon(store.dequeue_rollout(wait=WHILE))

    rollout = await over(store, first)

    assert await statuses(store, first) == ("failed", "timeout", "timeout")
    assert rollout.attempt.end_time - second.attempt.start_time >= 0.2


async def test_an_unresponsive_attempt_comes_back_while_its_rollout_waits(store: LightningStore) -> None:
    back: tuple[str, ...] = ()
    for seconds in DEADLINES:
        attempted = await claimed(store, config=again(RolloutConfig(unresponsive_seconds=seconds), "unresponsive"))
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


async def test_an_attempt_that_came_back_is_still_bound_by_its_timeout(store: LightningStore) -> None:
    for seconds in DEADLINES:
        config = again(RolloutConfig(unresponsive_seconds=seconds, timeout_seconds=5 * seconds), "unresponsive")
        attempted = await claimed(store, config=config)
        lost = await eventually(store, attempted, lambda now: now.status in ("requeuing", "failed"))
        if lost.status == "requeuing":
            break
    n = 0
    waiting = asyncio.create_task(over(store, attempted))

    while not waiting.done():
        await store.add_span(span(attempted, n := n + 1))

    assert await statuses(store, attempted) == ("failed", "timeout")


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
async def test_a_deadline_does_not_touch_what_has_ended(store: LightningStore, end: Any) -> None:
    for seconds in DEADLINES:
        short = RolloutConfig(timeout_seconds=seconds, unresponsive_seconds=seconds)
        attempted = await claimed(store, config=short)
        with suppress(Conflict):
            await store.update_rollout(attempted.rollout_id, status=end)
            break
    before = await found(store, attempted), await store.query_attempts(attempted.rollout_id)

    witness = await claimed(store, config=short)
    await over(store, witness)

    assert before[0].status == end
    assert (await found(store, attempted), await store.query_attempts(attempted.rollout_id)) == before


async def test_a_rollout_in_the_queue_has_no_deadline(store: LightningStore) -> None:
    config = RolloutConfig(timeout_seconds=0.1, unresponsive_seconds=0.1)
    rollout = await store.enqueue_rollout("task", config=config)

    witness = await store.start_rollout("witness", config=RolloutConfig(timeout_seconds=0.3))
    await over(store, witness)

    assert await found(store, rollout) == rollout


async def test_a_config_that_changes_moves_the_deadline(store: LightningStore) -> None:
    attempted = await claimed(store, config=RolloutConfig(timeout_seconds=600))

    await store.update_rollout(attempted.rollout_id, config=SHORT)

    assert (await over(store, attempted)).attempt.status == "timeout"


async def test_a_rollout_put_back_by_hand_leaves_its_deadline_behind(store: LightningStore) -> None:
    for seconds in DEADLINES:
        attempted = await claimed(store, config=RolloutConfig(timeout_seconds=seconds))
        with suppress(Conflict):
            await store.update_rollout(attempted.rollout_id, status="queuing")
            break

    witness = await store.start_rollout("witness", config=RolloutConfig(timeout_seconds=seconds))
    await over(store, witness)

    assert await statuses(store, attempted) == ("queuing", "failed")


async def test_a_hundred_deadlines_at_once_are_all_kept(store: LightningStore) -> None:
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
async def test_a_wall_clock_that_jumps_a_day_neither_ends_an_attempt_nor_prolongs_it(
    store: LightningStore, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    patient = await claimed(store, "patient", config=RolloutConfig(timeout_seconds=600, unresponsive_seconds=600))
    short = await store.start_rollout("short", config=RolloutConfig(timeout_seconds=0.5))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)

    assert (await over(store, short)).attempt.status == "timeout"
    later = await store.start_rollout("later", config=SHORT)
    assert (await over(store, later)).attempt.status == "timeout"

    assert await statuses(store, patient) == ("preparing", "preparing")
