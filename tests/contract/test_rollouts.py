"""Rollouts: updates, cancellation, final statuses."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentlightning.errors import Conflict, FinalStatus, NotFound
from agentlightning.store import LightningStore
from agentlightning.types import AttemptedRollout, AttemptRef, Rollout, RolloutConfig

from .conftest import every_way
from .making import RETRYING, claimed, ended, everything, found, span, statuses

OTHER = RolloutConfig(timeout_seconds=5, unresponsive_seconds=6, max_attempts=7, retry_condition=["timeout"])


async def test_update_changes_only_given_fields(store: LightningStore) -> None:
    first = await store.add_resources({"prompt": "first"})  # pyright: ignore[reportArgumentType]
    await store.add_resources({"prompt": "second"})  # pyright: ignore[reportArgumentType]
    rollout = await store.enqueue_rollout("task", "train", config=RETRYING, metadata={"k": 1})
    expected = rollout

    for change, seen in [
        ({"input": {"other": "task"}}, {}),
        ({"mode": "test"}, {}),
        ({"resources_id": first.resources_id}, {"resources_version": 1}),
        ({"config": OTHER}, {}),
        ({"metadata": {"new": [1]}}, {}),
    ]:
        expected = expected.model_copy(update={**change, **seen})
        assert await store.update_rollout(rollout.rollout_id, **change) == expected
        assert await found(store, rollout) == expected


@every_way
async def test_update_changes_several_fields_at_once(store: LightningStore) -> None:
    rollout = await store.enqueue_rollout("task")

    changed = await store.update_rollout(
        rollout.rollout_id, input="other", mode="val", status="cancelled", config=OTHER, metadata={"why": "test"}
    )

    assert changed == Rollout(
        rollout_id=rollout.rollout_id,
        input="other",
        start_time=rollout.start_time,
        end_time=changed.end_time,
        mode="val",
        status="cancelled",
        config=OTHER,
        metadata={"why": "test"},
    )
    assert changed.end_time is not None


async def test_none_is_a_value_in_an_update(store: LightningStore) -> None:
    await store.add_resources({"prompt": "x"})  # pyright: ignore[reportArgumentType]
    rollout = await store.enqueue_rollout("task", "train", metadata={"k": 1})

    changed = await store.update_rollout(rollout.rollout_id, input=None, mode=None, resources_id=None, metadata=None)

    assert changed == Rollout(rollout_id=rollout.rollout_id, input=None, start_time=rollout.start_time)


async def test_empty_update_changes_nothing(store: LightningStore) -> None:
    attempted = await claimed(store, metadata={"k": 1})
    before = await everything(store)

    assert await store.update_rollout(attempted.rollout_id) == attempted
    assert await everything(store) == before


async def test_update_of_an_unknown_rollout_raises_not_found(store: LightningStore) -> None:
    for expected in (NotFound, ValueError, LookupError):
        with pytest.raises(expected, match="ro-unknown"):
            await store.update_rollout("ro-unknown", status="cancelled")

    assert await store.get_rollout_by_id("ro-unknown") is None


async def test_update_with_unknown_resources_raises_not_found(store: LightningStore) -> None:
    rollout = await store.enqueue_rollout("task")

    with pytest.raises(NotFound, match="rs-unknown"):
        await store.update_rollout(rollout.rollout_id, resources_id="rs-unknown", metadata={"k": 1})

    assert await found(store, rollout) == rollout


async def test_updated_rollout_has_its_latest_attempt(store: LightningStore) -> None:
    queued = await store.enqueue_rollout("queued")
    attempted = await store.start_rollout("started")

    assert type(await store.update_rollout(queued.rollout_id, mode="val")) is Rollout
    changed = await store.update_rollout(attempted.rollout_id, mode="val")
    assert type(changed) is AttemptedRollout
    assert changed == attempted.model_copy(update={"mode": "val"})


# Statuses set by clients


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("queuing", ("queuing", "failed")),
        ("requeuing", ("requeuing", "failed")),
        ("preparing", ("preparing", "preparing")),
        ("running", ("running", "running")),
        ("succeeded", ("succeeded", "succeeded")),
        ("failed", ("failed", "failed")),
        ("cancelled", ("cancelled", "failed")),
    ],
)
async def test_setting_a_rollout_status_ends_its_live_attempt(
    store: LightningStore, to: Any, expected: tuple[str, ...]
) -> None:
    attempted = await claimed(store, worker_id="worker-1")
    changed = await store.update_rollout(attempted.rollout_id, status=to)

    assert changed.status == to
    assert await statuses(store, attempted) == expected
    attempt_over = expected[1] not in ("preparing", "running")
    rollout, attempt = await found(store, attempted), await store.get_latest_attempt(attempted.rollout_id)
    worker = await store.get_worker_by_id("worker-1")
    assert attempt is not None
    assert worker is not None
    assert (attempt.end_time is not None) == attempt_over
    assert (rollout.end_time is not None) == (to in ("succeeded", "failed", "cancelled"))
    assert (worker.status, worker.current_rollout_id) == (
        ("idle", None) if attempt_over else ("busy", attempted.rollout_id)
    )


@pytest.mark.parametrize("to", ["preparing", "running"])
async def test_queued_rollout_cannot_be_set_to_preparing_or_running(store: LightningStore, to: Any) -> None:
    rollout = await store.enqueue_rollout("task")
    before = await everything(store)

    with pytest.raises(Conflict, match=f"{rollout.rollout_id} is queuing; it becomes {to} when a worker claims it"):
        await store.update_rollout(rollout.rollout_id, status=to, metadata={"changed": True})

    assert await everything(store) == before


@pytest.mark.parametrize("final", ["succeeded", "failed", "cancelled"])
@pytest.mark.parametrize("begun", [False, True])
async def test_final_status_cannot_be_changed(store: LightningStore, final: Any, begun: bool) -> None:
    rollout = await (claimed(store, config=RETRYING) if begun else store.enqueue_rollout("task", config=RETRYING))
    await store.update_rollout(rollout.rollout_id, status=final)
    before = await everything(store)

    statuses: set[Any] = {"queuing", "requeuing", "preparing", "running", "succeeded", "failed", "cancelled"}
    for to in statuses - {final}:
        with pytest.raises(FinalStatus, match=rollout.rollout_id):
            await store.update_rollout(rollout.rollout_id, status=to)
    with pytest.raises(FinalStatus, match=rollout.rollout_id):
        await store.start_attempt(rollout.rollout_id)
    await store.update_rollout(rollout.rollout_id, status=final)

    assert await everything(store) == before
    assert await store.dequeue_rollout() is None


async def test_end_time_is_set_when_a_rollout_ends(store: LightningStore) -> None:
    attempted = await claimed(store)
    assert attempted.end_time is None

    before = time.time()
    await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")
    rollout = await found(store, attempted)

    assert before - 0.01 <= rollout.end_time <= time.time() + 0.01
    assert rollout.attempt.end_time is not None


async def test_times_follow_the_order_of_events(store: LightningStore) -> None:
    rollout = await ended(store)

    assert (
        rollout.start_time <= rollout.attempt.start_time <= rollout.attempt.end_time <= rollout.end_time + 1e-6  # type: ignore[attr-defined]
    )


# Cancellation


async def test_queued_rollout_is_cancelled_at_once(store: LightningStore) -> None:
    rollout = await store.enqueue_rollout("task")

    cancelled = await store.update_rollout(rollout.rollout_id, status="cancelled")

    assert (cancelled.status, cancelled.end_time is not None) == ("cancelled", True)
    assert await store.dequeue_rollout() is None
    assert await store.wait_for_rollouts([rollout.rollout_id], timeout=10) == [cancelled]


async def test_heartbeat_reports_a_cancelled_attempt_as_stale(store: LightningStore) -> None:
    attempted = await claimed(store, worker_id="worker-1")
    ref = AttemptRef(rollout_id=attempted.rollout_id, attempt_id=attempted.attempt.attempt_id)
    assert (await store.update_worker("worker-1", attempts=[ref])).stale_attempts == []

    await store.update_rollout(attempted.rollout_id, status="cancelled")

    assert (await store.update_worker("worker-1", attempts=[ref])).stale_attempts == [ref]


@pytest.mark.parametrize("late", ["running", "succeeded", "failed", "timeout", "unresponsive"])
async def test_late_result_does_not_undo_a_cancellation(store: LightningStore, late: Any) -> None:
    attempted = await claimed(store, config=RETRYING)
    await store.update_rollout(attempted.rollout_id, status="cancelled")
    before = await everything(store)

    with pytest.raises(Conflict, match=attempted.rollout_id):
        await store.update_attempt(
            attempted.rollout_id, attempted.attempt.attempt_id, status=late, metadata={"late": True}
        )

    assert await everything(store) == before


async def test_late_span_of_a_cancelled_rollout_is_stored_and_marked(store: LightningStore) -> None:
    attempted = await claimed(store)
    await store.update_rollout(attempted.rollout_id, status="cancelled")

    stored = await store.add_span(span(attempted, attributes={"k": 1}))

    assert stored == span(attempted, attributes={"k": 1, "agentlightning.late": True}, sequence_id=1)
    assert (await store.query_spans(attempted.rollout_id)).items == [stored]
    assert await statuses(store, attempted) == ("cancelled", "failed")
