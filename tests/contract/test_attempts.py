"""Attempts: the latest one determines the rollout's status, and failures are retried by its configuration."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentlightning.errors import Conflict, FinalStatus, NotFound, StaleAttempt
from agentlightning.store import LightningStore
from agentlightning.types import Attempt, AttemptedRollout, AttemptRef, RolloutConfig

from .making import RETRYING, claimed, everything, found, span, statuses


async def lost(store: LightningStore, **given: Any) -> AttemptedRollout:
    """Return a rollout that is queued again after its attempt became unresponsive."""
    attempted = await claimed(store, config=RETRYING, **given)
    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="unresponsive")
    assert await statuses(store, attempted) == ("requeuing", "unresponsive")
    return attempted


# Status changes


async def test_first_span_sets_the_attempt_running(store: LightningStore) -> None:
    attempted = await claimed(store)

    await store.add_span(span(attempted))

    assert await statuses(store, attempted) == ("running", "running")


async def test_first_heartbeat_sets_the_attempt_running(store: LightningStore) -> None:
    attempted = await claimed(store, worker_id="worker-1")

    await store.update_worker("worker-1")

    assert await statuses(store, attempted) == ("running", "running")


async def test_report_of_running_sets_the_attempt_running(store: LightningStore) -> None:
    attempted = await claimed(store)

    attempt = await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="running")

    assert attempt.status == "running"
    assert await statuses(store, attempted) == ("running", "running")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("reported", "rollout"),
    [("succeeded", "succeeded"), ("failed", "failed"), ("timeout", "failed"), ("unresponsive", "failed")],
)
async def test_end_of_an_attempt_ends_its_rollout(
    store: LightningStore, reported: Any, rollout: str, begun: bool
) -> None:
    attempted = await claimed(store)
    if begun:
        await store.add_span(span(attempted))

    before = time.time()
    attempt = await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status=reported)
    after = time.time()

    assert attempt == await store.get_latest_attempt(attempted.rollout_id)
    assert await statuses(store, attempted) == (rollout, reported)
    now = await found(store, attempted)
    assert now.attempt == attempt
    assert before - 0.01 <= now.end_time <= after + 0.01
    assert await store.dequeue_rollout() is None


@pytest.mark.parametrize("reported", ["failed", "timeout", "unresponsive"])
async def test_failure_is_retried_until_max_attempts(store: LightningStore, reported: Any) -> None:
    config = RolloutConfig(max_attempts=3, retry_condition=[reported])
    rollout = await store.enqueue_rollout("task", config=config)
    seen: list[tuple[str, ...]] = []

    for sequence_id in (1, 2, 3):
        attempted = await store.dequeue_rollout(worker_id=f"worker-{sequence_id}")
        assert attempted is not None
        assert (attempted.rollout_id, attempted.attempt.sequence_id) == (rollout.rollout_id, sequence_id)
        await store.update_attempt(rollout.rollout_id, attempted.attempt.attempt_id, status=reported)
        seen.append(await statuses(store, rollout))

    assert seen == [
        ("requeuing", reported),
        ("requeuing", reported, reported),
        ("failed", reported, reported, reported),
    ]
    assert await store.dequeue_rollout() is None


@pytest.mark.parametrize(
    ("reported", "condition", "max_attempts"),
    [
        ("failed", ["timeout", "unresponsive"], 9),
        ("timeout", ["failed"], 9),
        ("failed", [], 9),
        ("failed", ["failed"], 1),
    ],
)
async def test_failure_outside_the_retry_condition_is_not_retried(
    store: LightningStore, reported: Any, condition: list[Any], max_attempts: int
) -> None:
    config = RolloutConfig(max_attempts=max_attempts, retry_condition=condition)
    attempted = await claimed(store, config=config)

    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status=reported)

    assert await statuses(store, attempted) == ("failed", reported)
    assert await store.dequeue_rollout() is None


async def test_second_attempt_can_succeed(store: LightningStore) -> None:
    first = await claimed(store, config=RETRYING)
    await store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="failed")
    second = await store.dequeue_rollout()
    assert second is not None
    assert second.end_time is None

    await store.update_attempt(second.rollout_id, second.attempt.attempt_id, status="succeeded")

    assert await statuses(store, first) == ("succeeded", "failed", "succeeded")


# Reports


async def test_report_changes_only_given_fields(store: LightningStore) -> None:
    attempted = await claimed(store, worker_id="worker-1")
    ids = attempted.rollout_id, attempted.attempt.attempt_id
    running = await store.update_attempt(*ids, status="running")

    noted = await store.update_attempt(*ids, metadata={"step": 1})
    handed = await store.update_attempt(*ids, worker_id="worker-2")

    ignoring = {"last_heartbeat_time": None}
    assert noted.model_copy(update=ignoring) == running.model_copy(update={"metadata": {"step": 1}, **ignoring})
    assert handed.model_copy(update=ignoring) == noted.model_copy(update={"worker_id": "worker-2", **ignoring})


async def test_report_may_contain_a_heartbeat_time(store: LightningStore) -> None:
    attempted = await claimed(store)
    at = time.time()

    attempt = await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, last_heartbeat_time=at)

    assert attempt.last_heartbeat_time == pytest.approx(at, abs=5)
    assert await store.get_latest_attempt(attempted.rollout_id) == attempt


async def test_latest_is_the_latest_attempt(store: LightningStore) -> None:
    first = await claimed(store, config=RETRYING)
    await store.update_attempt(first.rollout_id, "latest", status="failed")
    second = await store.dequeue_rollout()
    assert second is not None

    attempt = await store.update_attempt(first.rollout_id, "latest", status="succeeded")

    assert attempt.attempt_id == second.attempt.attempt_id
    assert await statuses(store, first) == ("succeeded", "failed", "succeeded")


async def test_repeated_status_changes_nothing(store: LightningStore) -> None:
    attempted = await claimed(store)
    await store.update_attempt(attempted.rollout_id, "latest", status="running")
    await store.update_attempt(attempted.rollout_id, "latest", status="running")

    assert await statuses(store, attempted) == ("running", "running")


async def test_running_attempt_cannot_become_preparing(store: LightningStore) -> None:
    attempted = await claimed(store)
    await store.update_attempt(attempted.rollout_id, "latest", status="running")

    with pytest.raises(Conflict, match="is running and cannot become preparing"):
        await store.update_attempt(attempted.rollout_id, "latest", status="preparing")

    assert await statuses(store, attempted) == ("running", "running")


async def test_report_on_an_unknown_attempt_raises_not_found(store: LightningStore) -> None:
    queued = await store.enqueue_rollout("no attempt yet")
    attempted = await store.start_rollout("task")
    other = await store.start_rollout("other")
    before = await everything(store)

    for rollout_id, attempt_id, named in [
        ("ro-unknown", "at-unknown", "ro-unknown"),
        ("ro-unknown", "latest", "ro-unknown"),
        ("ro-unknown", attempted.attempt.attempt_id, "ro-unknown"),
        (attempted.rollout_id, "at-unknown", "at-unknown"),
        (attempted.rollout_id, other.attempt.attempt_id, other.attempt.attempt_id),
        (queued.rollout_id, "latest", queued.rollout_id),
    ]:
        for expected in (NotFound, ValueError, LookupError):
            with pytest.raises(expected, match=named):
                await store.update_attempt(rollout_id, attempt_id, status="succeeded")

    assert await everything(store) == before


# Fencing


@pytest.mark.parametrize("late", ["running", "succeeded", "failed", "timeout", "unresponsive", None])
async def test_report_on_a_superseded_attempt_is_rejected(store: LightningStore, late: Any) -> None:
    first = await lost(store)
    second = await store.dequeue_rollout()
    assert second is not None
    before = await everything(store)

    with pytest.raises(StaleAttempt, match=first.attempt.attempt_id):
        await store.update_attempt(
            first.rollout_id,
            first.attempt.attempt_id,
            metadata={"late": True},
            worker_id="worker-late",
            **({} if late is None else {"status": late}),
        )

    assert await everything(store) == before
    await store.update_attempt(second.rollout_id, second.attempt.attempt_id, status="succeeded")
    assert await statuses(store, first) == ("succeeded", "unresponsive", "succeeded")


@pytest.mark.parametrize("end", ["succeeded", "failed", "timeout", "unresponsive"])
@pytest.mark.parametrize("late", ["running", "succeeded", "failed", "timeout", "unresponsive", None])
async def test_report_after_the_end_is_rejected(store: LightningStore, end: Any, late: Any) -> None:
    attempted = await claimed(store)
    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status=end)
    before = await everything(store)

    with pytest.raises(FinalStatus, match=attempted.rollout_id):
        await store.update_attempt(
            attempted.rollout_id,
            attempted.attempt.attempt_id,
            metadata={"late": True},
            **({} if late is None else {"status": late}),
        )

    assert await everything(store) == before


async def test_report_on_a_failed_attempt_does_not_change_the_retry(store: LightningStore) -> None:
    first = await claimed(store, config=RETRYING)
    await store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="failed")
    before = await everything(store)

    with pytest.raises(FinalStatus, match=f"attempt {first.attempt.attempt_id} .*has already failed"):
        await store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="succeeded")

    assert await everything(store) == before


async def test_rollout_has_at_most_one_live_attempt(store: LightningStore) -> None:
    first = await claimed(store, config=RETRYING)
    second = await store.start_attempt(first.rollout_id)
    third = await store.start_attempt(first.rollout_id)
    await store.add_span(span(third))

    assert await statuses(store, first) == ("running", "failed", "failed", "running")
    assert [each.attempt.sequence_id for each in (first, second, third)] == [1, 2, 3]


# Recovery


@pytest.mark.parametrize("sign", ["span", "heartbeat", "report"])
async def test_unresponsive_attempt_recovers_while_its_rollout_is_queued(store: LightningStore, sign: str) -> None:
    attempted = await lost(store, worker_id="worker-1")

    match sign:
        case "span":
            await store.add_span(span(attempted))
        case "heartbeat":
            ref = AttemptRef(rollout_id=attempted.rollout_id, attempt_id=attempted.attempt.attempt_id)
            await store.update_worker("worker-1", attempts=[ref])
        case _:
            await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="running")

    assert await statuses(store, attempted) == ("running", "running")
    assert await store.dequeue_rollout() is None, "it would run twice"
    attempt = await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="succeeded")
    assert await statuses(store, attempted) == ("succeeded", "succeeded")
    assert attempt.sequence_id == 1


async def test_recovered_attempt_has_no_end_time(store: LightningStore) -> None:
    attempted = await lost(store)

    await store.add_span(span(attempted))

    now = await found(store, attempted)
    assert (now.end_time, now.attempt.end_time) == (None, None)


async def test_late_success_counts_while_the_rollout_is_queued(store: LightningStore) -> None:
    attempted = await lost(store)

    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="succeeded")

    assert await statuses(store, attempted) == ("succeeded", "succeeded")
    assert await store.dequeue_rollout() is None


async def test_attempt_does_not_recover_after_another_claim(store: LightningStore) -> None:
    first = await lost(store, worker_id="worker-1")
    second = await store.dequeue_rollout(worker_id="worker-2")
    assert second is not None

    stored = await store.add_span(span(first, attributes={"k": 1}))

    assert stored == span(first, attributes={"k": 1, "agentlightning.late": True}, sequence_id=1)
    assert await statuses(store, first) == ("preparing", "unresponsive", "preparing")


async def test_attempt_does_not_recover_after_its_rollout_failed(store: LightningStore) -> None:
    attempted = await claimed(store)
    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="unresponsive")

    await store.add_span(span(attempted))

    assert await statuses(store, attempted) == ("failed", "unresponsive")


# Explicit retries


async def test_start_attempt_ignores_max_attempts(store: LightningStore) -> None:
    first = await claimed(store, worker_id="worker-1", metadata={"k": 1})

    second = await store.start_attempt(first.rollout_id, worker_id="worker-2")

    assert second == first.model_copy(
        update={
            "attempt": Attempt(
                rollout_id=first.rollout_id,
                attempt_id=second.attempt.attempt_id,
                sequence_id=2,
                start_time=second.attempt.start_time,
                worker_id="worker-2",
                last_heartbeat_time=second.attempt.last_heartbeat_time,
            )
        }
    )
    assert await statuses(store, first) == ("preparing", "failed", "preparing")
    with pytest.raises(StaleAttempt):
        await store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="succeeded")


async def test_start_attempt_removes_the_rollout_from_the_queue(store: LightningStore) -> None:
    rollout = await store.enqueue_rollout("task")

    attempted = await store.start_attempt(rollout.rollout_id)

    assert attempted.attempt.sequence_id == 1
    assert await store.dequeue_rollout() is None
    assert await statuses(store, rollout) == ("preparing", "preparing")


async def test_start_attempt_of_an_unknown_rollout_raises_not_found(store: LightningStore) -> None:
    with pytest.raises(NotFound, match="ro-unknown"):
        await store.start_attempt("ro-unknown")


# Queries


async def test_attempts_are_listed_first_to_latest(store: LightningStore) -> None:
    first = await claimed(store, config=RETRYING, worker_id="worker-1")
    one = await store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="failed")
    second = await store.dequeue_rollout(worker_id="worker-2")
    assert second is not None

    page = await store.query_attempts(first.rollout_id)

    assert (page.items, page.total, page.limit, page.offset) == ([one, second.attempt], 2, -1, 0)
    assert await store.get_latest_attempt(first.rollout_id) == second.attempt
    assert one.attempt_id != second.attempt.attempt_id


async def test_unknown_rollout_has_no_attempts(store: LightningStore) -> None:
    queued = await store.enqueue_rollout("task")

    for rollout_id in ("ro-unknown", queued.rollout_id):
        assert (await store.query_attempts(rollout_id)).items == []
        assert await store.get_latest_attempt(rollout_id) is None
