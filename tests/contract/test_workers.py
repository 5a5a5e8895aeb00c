"""Workers: busy during an attempt, idle after it, unknown when lost; heartbeats keep attempts alive."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentlightning.store import LightningStore
from agentlightning.types import AttemptedRollout, AttemptRef, Worker

from .conftest import every_way
from .making import RETRYING, claimed, found, span, statuses


def ref(attempted: AttemptedRollout) -> AttemptRef:
    return AttemptRef(rollout_id=attempted.rollout_id, attempt_id=attempted.attempt.attempt_id)


async def known(store: LightningStore, worker_id: str) -> Worker:
    worker = await store.get_worker_by_id(worker_id)
    assert worker is not None
    return worker


async def test_unknown_worker_is_none(store: LightningStore) -> None:
    assert await store.get_worker_by_id("worker-1") is None
    assert (await store.query_workers()).items == []


@pytest.mark.parametrize("how", ["dequeue", "dequeue many", "start_rollout", "start_attempt"])
async def test_worker_is_busy_during_an_attempt(store: LightningStore, how: str) -> None:
    rollout = None if how == "start_rollout" else await store.enqueue_rollout("task")
    before = time.time()
    match how:
        case "dequeue":
            attempted: Any = await store.dequeue_rollout(worker_id="worker-1")
        case "dequeue many":
            (attempted,) = await store.dequeue_many_rollouts(worker_id="worker-1")
        case "start_rollout":
            attempted = await store.start_rollout("task", worker_id="worker-1")
        case _:
            assert rollout is not None
            attempted = await store.start_attempt(rollout.rollout_id, worker_id="worker-1")

    worker = await known(store, "worker-1")

    assert (worker.status, worker.current_rollout_id, worker.current_attempt_id) == (
        "busy",
        attempted.rollout_id,
        attempted.attempt.attempt_id,
    )
    assert worker.last_busy_time is not None
    assert before - 0.01 <= worker.last_busy_time <= time.time() + 0.01
    if how.startswith("dequeue"):
        assert worker.last_dequeue_time is not None
    assert attempted.attempt.worker_id == "worker-1"


@pytest.mark.parametrize("end", ["succeeded", "failed", "timeout"])
async def test_worker_is_idle_after_its_attempt(store: LightningStore, end: Any) -> None:
    attempted = await claimed(store, worker_id="worker-1")
    before = time.time()

    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status=end)

    worker = await known(store, "worker-1")
    assert (worker.status, worker.current_rollout_id, worker.current_attempt_id) == ("idle", None, None)
    assert worker.last_idle_time is not None
    assert worker.last_idle_time >= before - 0.01


async def test_worker_is_busy_until_its_last_attempt_ends(store: LightningStore) -> None:
    first = await claimed(store, "first", worker_id="worker-1")
    second = await claimed(store, "second", worker_id="worker-1")

    await store.update_attempt(second.rollout_id, second.attempt.attempt_id, status="succeeded")
    between = await known(store, "worker-1")
    await store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="succeeded")
    after = await known(store, "worker-1")

    assert [(worker.status, worker.current_rollout_id) for worker in (between, after)] == [
        ("busy", first.rollout_id),
        ("idle", None),
    ]


async def test_lost_worker_is_unknown(store: LightningStore) -> None:
    attempted = await claimed(store, worker_id="worker-1")

    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="unresponsive")

    assert (await known(store, "worker-1")).status == "unknown"


async def test_recovered_worker_is_busy_again(store: LightningStore) -> None:
    attempted = await claimed(store, worker_id="worker-1", config=RETRYING)
    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="unresponsive")

    await store.add_span(span(attempted))

    worker = await known(store, "worker-1")
    assert (worker.status, worker.current_rollout_id) == ("busy", attempted.rollout_id)


async def test_worker_of_a_superseded_attempt_is_idle(store: LightningStore) -> None:
    attempted = await claimed(store, worker_id="worker-1")

    again = await store.start_attempt(attempted.rollout_id, worker_id="worker-2")

    assert (await known(store, "worker-1")).current_attempt_id is None
    assert (await known(store, "worker-1")).status == "idle"
    assert (await known(store, "worker-2")).current_attempt_id == again.attempt.attempt_id


# Heartbeats


async def test_heartbeat_creates_a_worker(store: LightningStore) -> None:
    before = time.time()
    worker = await store.update_worker("worker-1", {"cpu": 0.5, "rollouts": [1, 2]})

    assert worker == Worker(
        worker_id="worker-1",
        status="idle",
        heartbeat_stats={"cpu": 0.5, "rollouts": [1, 2]},
        last_heartbeat_time=worker.last_heartbeat_time,
        last_idle_time=worker.last_idle_time,
    )
    assert worker.last_heartbeat_time is not None
    assert before - 0.01 <= worker.last_heartbeat_time <= time.time() + 0.01
    assert await known(store, "worker-1") == worker
    assert (await store.query_workers()).items == [worker]


async def test_heartbeat_without_stats_keeps_the_latest(store: LightningStore) -> None:
    await store.update_worker("worker-1", {"cpu": 0.5})
    await store.update_worker("worker-1")
    assert (await known(store, "worker-1")).heartbeat_stats == {"cpu": 0.5}

    await store.update_worker("worker-1", {"gpu": 0.9})
    assert (await known(store, "worker-1")).heartbeat_stats == {"gpu": 0.9}


async def test_heartbeat_counts_for_all_attempts_of_the_worker(store: LightningStore) -> None:
    mine = [await claimed(store, n, worker_id="worker-1") for n in range(2)]
    others = await claimed(store, "other", worker_id="worker-2")

    worker = await store.update_worker("worker-1")

    assert (worker.status, worker.stale_attempts) == ("busy", [])
    assert [await statuses(store, each) for each in (*mine, others)] == [
        ("running", "running"),
        ("running", "running"),
        ("preparing", "preparing"),
    ]
    attempt = (await found(store, mine[0])).attempt
    assert attempt.last_heartbeat_time >= attempt.start_time


async def test_heartbeat_with_attempts_counts_for_those_only(store: LightningStore) -> None:
    first, second = [await claimed(store, n, worker_id="worker-1") for n in range(2)]

    await store.update_worker("worker-1", attempts=[ref(first)])
    assert [await statuses(store, each) for each in (first, second)] == [
        ("running", "running"),
        ("preparing", "preparing"),
    ]

    await store.update_worker("worker-1", attempts=[])
    assert await statuses(store, second) == ("preparing", "preparing")


@every_way
async def test_heartbeat_returns_stale_attempts(store: LightningStore) -> None:
    live = await claimed(store, "live", worker_id="worker-1")
    cancelled = await claimed(store, "cancelled", worker_id="worker-1")
    done = await claimed(store, "done", worker_id="worker-1")
    superseded = await claimed(store, "superseded", worker_id="worker-1")
    await store.update_rollout(cancelled.rollout_id, status="cancelled")
    await store.update_attempt(done.rollout_id, done.attempt.attempt_id, status="succeeded")
    await store.start_attempt(superseded.rollout_id, worker_id="worker-2")

    worker = await store.update_worker("worker-1", attempts=[ref(each) for each in (live, cancelled, done, superseded)])

    assert worker.stale_attempts == [ref(cancelled), ref(done), ref(superseded)]
    assert (await known(store, "worker-1")).stale_attempts == []
    assert await statuses(store, superseded) == ("preparing", "failed", "preparing")


async def test_heartbeat_returns_unknown_attempts_as_stale(store: LightningStore) -> None:
    unknown = AttemptRef(rollout_id="ro-unknown", attempt_id="at-unknown")

    assert (await store.update_worker("worker-1", attempts=[unknown])).stale_attempts == [unknown]


async def test_workers_are_listed_once_each(store: LightningStore) -> None:
    for worker_id in ("worker-2", "worker-1", "worker-2"):
        await store.update_worker(worker_id)

    page = await store.query_workers()

    assert (sorted(worker.worker_id for worker in page), page.total) == (["worker-1", "worker-2"], 2)


async def test_claim_without_a_worker_id_creates_no_worker(store: LightningStore) -> None:
    attempted = await claimed(store)

    assert attempted.attempt.worker_id is None
    assert (await store.query_workers()).items == []
