"""The queue: every enqueued rollout is claimed once, oldest first."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentlightning.errors import NotFound
from agentlightning.store import LightningStore
from agentlightning.store.db.signals import QUEUE
from agentlightning.store.sql import queue
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    EnqueueRolloutRequest,
    PromptTemplate,
    Rollout,
    RolloutConfig,
)

from .conftest import every_way
from .making import LONG_WAIT, RETRYING, claimed, everything, found, soon, statuses

CONFIG = RolloutConfig(timeout_seconds=60, unresponsive_seconds=20, max_attempts=3, retry_condition=["failed"])


async def drained(store: LightningStore) -> list[str]:
    """Claim everything and return the ids in order."""
    ids: list[str] = []
    while rollout := await store.dequeue_rollout():
        ids.append(rollout.rollout_id)
    return ids


async def test_enqueue_many_keeps_the_order_across_resources(store: LightningStore) -> None:
    given = (await store.add_resources({"prompt": PromptTemplate(template="first")})).resources_id
    latest = (await store.add_resources({"prompt": PromptTemplate(template="second")})).resources_id
    asked = [None, given, given, None, latest]

    enqueued = await store.enqueue_many_rollouts(
        [EnqueueRolloutRequest(input=n, resources_id=resources_id) for n, resources_id in enumerate(asked)]
    )

    assert [rollout.resources_id for rollout in enqueued] == [latest, given, given, latest, latest]
    claimed = await store.dequeue_many_rollouts(limit=9, worker_id="worker-1")
    assert [rollout.input for rollout in claimed] == list(range(5))
    assert [rollout.rollout_id for rollout in claimed] == [rollout.rollout_id for rollout in enqueued]


async def test_enqueued_task_has_the_defaults(store: LightningStore) -> None:
    before = time.time()
    rollout = await store.enqueue_rollout("Why is the sky blue?")
    after = time.time()

    assert re.fullmatch(r"ro-[0-9a-f]{12}", rollout.rollout_id)
    assert before - 0.01 <= rollout.start_time <= after + 0.01
    assert rollout == Rollout(
        rollout_id=rollout.rollout_id, input="Why is the sky blue?", start_time=rollout.start_time, status="queuing"
    )
    assert type(rollout) is Rollout
    assert await found(store, rollout) == rollout
    assert type(await found(store, rollout)) is Rollout


async def test_enqueued_task_keeps_all_given_fields(store: LightningStore) -> None:
    resources = await store.add_resources({"prompt": "Hello"})  # pyright: ignore[reportArgumentType]
    rollout = await store.enqueue_rollout(
        {"question": "why?"}, "val", resources.resources_id, CONFIG, {"source": "tests", "nested": {"n": [1, None]}}
    )

    assert rollout == Rollout(
        rollout_id=rollout.rollout_id,
        input={"question": "why?"},
        start_time=rollout.start_time,
        mode="val",
        resources_id=resources.resources_id,
        resources_version=1,
        status="queuing",
        config=CONFIG,
        metadata={"source": "tests", "nested": {"n": [1, None]}},
    )
    assert await found(store, rollout) == rollout


JSON_VALUES = (
    [
        None, True, 0, -1.5, 2**63 - 1, -(2**63), "", "text", "naïve 😀 \x00 \n \u2028 ' \" \\", [], {}, {"": None},
        [1, [2, [3]]], {"a": {"b": [None, {"c": 1e-300}]}}, "x" * 1_000_000, {"unset": "UNSET", "__proto__": 1},
    ]
)  # fmt: skip


async def test_any_json_input_is_returned_unchanged(store: LightningStore) -> None:
    for value in JSON_VALUES:
        rollout = await store.enqueue_rollout(value, metadata={"same": value})

        attempted = await store.dequeue_rollout()

        assert attempted is not None
        assert attempted.rollout_id == rollout.rollout_id
        assert (attempted.input, attempted.metadata) == (value, {"same": value})
        assert type(attempted.input) is type(value)


async def test_claim_creates_the_first_attempt(store: LightningStore) -> None:
    rollout = await store.enqueue_rollout("task", "train", config=CONFIG, metadata={"k": 1})
    before = time.time()
    attempted = await store.dequeue_rollout(worker_id="worker-1")

    assert attempted is not None
    attempt = attempted.attempt
    assert re.fullmatch(r"at-[0-9a-f]{8}", attempt.attempt_id)
    assert before - 0.01 <= attempt.start_time <= time.time() + 0.01
    assert attempt == Attempt(
        rollout_id=rollout.rollout_id,
        attempt_id=attempt.attempt_id,
        sequence_id=1,
        start_time=attempt.start_time,
        status="preparing",
        worker_id="worker-1",
        last_heartbeat_time=attempt.last_heartbeat_time,
    )
    assert attempted == AttemptedRollout(**{**dict(rollout), "status": "preparing"}, attempt=attempt)
    assert await found(store, rollout) == attempted


@every_way
async def test_claim_returns_the_oldest_task(store: LightningStore) -> None:
    rollouts = [await store.enqueue_rollout(number) for number in range(10)]

    assert await drained(store) == [rollout.rollout_id for rollout in rollouts]


async def test_claim_of_an_empty_queue_returns_none_at_once(store: LightningStore) -> None:
    assert await store.dequeue_rollout() is None
    assert await store.dequeue_rollout(worker_id="worker-1") is None
    assert await store.dequeue_many_rollouts(limit=3) == []


async def test_enqueue_many_keeps_the_given_order(store: LightningStore) -> None:
    first = await store.enqueue_rollout("first")
    requests = [
        EnqueueRolloutRequest(input=1),
        EnqueueRolloutRequest(input=2, mode="test", config=CONFIG, metadata={"k": 1}),
        EnqueueRolloutRequest(input=3),
    ]
    many = await store.enqueue_many_rollouts(requests)

    assert many == [
        Rollout(rollout_id=many[0].rollout_id, input=1, start_time=many[0].start_time),
        Rollout(
            rollout_id=many[1].rollout_id,
            input=2,
            start_time=many[1].start_time,
            mode="test",
            config=CONFIG,
            metadata={"k": 1},
        ),
        Rollout(rollout_id=many[2].rollout_id, input=3, start_time=many[2].start_time),
    ]
    assert (await store.query_rollouts()).items == [first, *many]
    assert await drained(store) == [rollout.rollout_id for rollout in [first, *many]]


@every_way
async def test_enqueue_many_is_atomic(store: LightningStore) -> None:
    await store.enqueue_rollout("here already")
    before = await everything(store)

    with pytest.raises(NotFound, match="rs-unknown"):
        await store.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input=1), EnqueueRolloutRequest(input=2, resources_id="rs-unknown")]
        )

    assert await everything(store) == before


async def test_enqueue_many_accepts_an_empty_list(store: LightningStore) -> None:
    assert await store.enqueue_many_rollouts([]) == []
    assert (await store.query_rollouts()).items == []


async def test_bulk_claim_returns_the_oldest_tasks(store: LightningStore) -> None:
    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=number) for number in range(5)])
    ids = [rollout.rollout_id for rollout in rollouts]

    one = await store.dequeue_many_rollouts()
    two = await store.dequeue_many_rollouts(limit=2, worker_id="worker-1")
    rest = await store.dequeue_many_rollouts(limit=9)

    assert [[rollout.rollout_id for rollout in batch] for batch in (one, two, rest)] == [ids[:1], ids[1:3], ids[3:]]
    assert [rollout.attempt.worker_id for rollout in two] == ["worker-1", "worker-1"]
    assert len({rollout.attempt.attempt_id for rollout in [*one, *two, *rest]}) == 5
    assert [rollout.status for rollout in [*one, *two, *rest]] == ["preparing"] * 5


async def test_bulk_claim_is_limited(store: LightningStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOST_CLAIMED", 2)
    ids = [(await store.enqueue_rollout(n)).rollout_id for n in range(3)]

    both = await asyncio.gather(*(store.dequeue_many_rollouts(limit=2**63 - 1) for _ in range(2)))

    assert sorted([rollout.rollout_id for rollout in claimed] for claimed in both) == sorted([ids[:2], ids[2:]])


async def test_bulk_claim_with_limit_zero_returns_nothing(store: LightningStore) -> None:
    rollout = await store.enqueue_rollout("task")

    assert await store.dequeue_many_rollouts(limit=0) == []
    assert await statuses(store, rollout) == ("queuing",)


async def test_claimed_rollout_leaves_the_queue(store: LightningStore) -> None:
    attempted = await claimed(store)

    assert await store.dequeue_rollout() is None
    assert (await store.statistics())["queue_depth"] == 0
    assert await statuses(store, attempted) == ("preparing", "preparing")


async def test_start_rollout_never_enqueues(store: LightningStore) -> None:
    resources = await store.add_resources({"prompt": "Hello"})  # pyright: ignore[reportArgumentType]
    rollout = await store.start_rollout("task", "train", None, CONFIG, {"k": 1}, "worker-1")

    attempt = rollout.attempt
    assert rollout == AttemptedRollout(
        rollout_id=rollout.rollout_id,
        input="task",
        start_time=rollout.start_time,
        mode="train",
        resources_id=resources.resources_id,
        resources_version=1,
        status="preparing",
        config=CONFIG,
        metadata={"k": 1},
        attempt=Attempt(
            rollout_id=rollout.rollout_id,
            attempt_id=attempt.attempt_id,
            sequence_id=1,
            start_time=attempt.start_time,
            worker_id="worker-1",
            last_heartbeat_time=attempt.last_heartbeat_time,
        ),
    )
    assert await found(store, rollout) == rollout
    assert await store.dequeue_rollout() is None


# Resources


async def test_task_without_resources_uses_the_latest_at_enqueue_time(store: LightningStore) -> None:
    without = await store.enqueue_rollout("before there are any")
    first = await store.add_resources({"prompt": "first"})  # pyright: ignore[reportArgumentType]
    early = await store.enqueue_rollout("early")
    await store.update_resources(first.resources_id, {"prompt": "second version"})  # pyright: ignore[reportArgumentType]
    late = await store.enqueue_rollout("late")
    other = await store.add_resources({"prompt": "other"})  # pyright: ignore[reportArgumentType]
    last = await store.start_rollout("last")

    handed_out = [(rollout.resources_id, rollout.resources_version) for rollout in
                  await store.dequeue_many_rollouts(limit=3)]  # fmt: skip

    assert handed_out == [(None, None), (first.resources_id, 1), (first.resources_id, 2)]
    assert [(each.resources_id, each.resources_version) for each in (without, early, late, last)] == [
        *handed_out,
        (other.resources_id, 1),
    ]


async def test_task_keeps_the_version_of_its_resources_at_enqueue_time(store: LightningStore) -> None:
    mine = await store.add_resources({"prompt": "mine"})  # pyright: ignore[reportArgumentType]
    await store.add_resources({"prompt": "newer"})  # pyright: ignore[reportArgumentType]
    rollout = await store.enqueue_rollout("task", resources_id=mine.resources_id)
    await store.update_resources(mine.resources_id, {"prompt": "changed"})  # pyright: ignore[reportArgumentType]

    attempted = await store.dequeue_rollout()

    assert attempted is not None
    assert (attempted.resources_id, attempted.resources_version) == (mine.resources_id, 1)
    assert (rollout.resources_id, rollout.resources_version) == (mine.resources_id, 1)
    assert await store.get_resources_by_id(mine.resources_id, 1) == mine


async def test_enqueue_with_unknown_resources_raises_not_found(store: LightningStore) -> None:
    for refused in (
        store.enqueue_rollout("task", resources_id="rs-unknown"),
        store.start_rollout("task", resources_id="rs-unknown"),
    ):
        with pytest.raises(NotFound, match="rs-unknown"):
            await refused

    assert (await store.query_rollouts()).items == []


# Waiting claims


async def test_waiting_claim_returns_a_new_task_at_once(store: LightningStore) -> None:
    waiting = asyncio.create_task(store.dequeue_rollout(worker_id="worker-1", wait=LONG_WAIT))
    rollout = await store.enqueue_rollout("task")

    attempted = await soon(waiting)

    assert (attempted.rollout_id, attempted.attempt.worker_id) == (rollout.rollout_id, "worker-1")


@every_way
async def test_waiting_claims_get_one_task_each(store: LightningStore) -> None:
    waiting = [asyncio.create_task(store.dequeue_rollout(worker_id=f"worker-{n}", wait=LONG_WAIT)) for n in range(8)]
    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in range(8)])

    attempted = await soon(asyncio.gather(*waiting))

    assert sorted(each.rollout_id for each in attempted) == sorted(each.rollout_id for each in rollouts)


async def test_waiting_bulk_claim_returns_with_the_first_task(store: LightningStore) -> None:
    waiting = asyncio.create_task(store.dequeue_many_rollouts(limit=5, wait=LONG_WAIT))
    rollout = await store.enqueue_rollout("task")

    assert [each.rollout_id for each in await soon(waiting)] == [rollout.rollout_id]


REQUEUES: dict[str, tuple[RolloutConfig, Callable[[LightningStore, AttemptedRollout], Awaitable[Any]]]] = {
    "failed attempt": (
        RETRYING,
        lambda store, it: store.update_attempt(it.rollout_id, it.attempt.attempt_id, status="failed"),
    ),
    "status queuing": (
        RolloutConfig(),
        lambda store, it: store.update_rollout(it.rollout_id, status="queuing"),
    ),
    "timeout": (
        RolloutConfig(timeout_seconds=0.5, max_attempts=2, retry_condition=["timeout"]),
        lambda _, __: asyncio.sleep(0),
    ),
    "unresponsive attempt": (
        RolloutConfig(unresponsive_seconds=0.5, max_attempts=2, retry_condition=["unresponsive"]),
        lambda _, __: asyncio.sleep(0),
    ),
}


@pytest.mark.ways("file", "postgres")
@pytest.mark.parametrize("requeue", REQUEUES)
async def test_waiting_claim_is_woken_by_a_requeue(store: Any, requeue: str) -> None:
    """The claim must return long before its own timeout."""
    config, act = REQUEUES[requeue]
    attempted = await claimed(store, config=config)
    waiting = asyncio.create_task(store.dequeue_rollout(wait=LONG_WAIT))
    while QUEUE not in store.signals.topics():  # noqa: ASYNC110 (no call of the store waits for a waiter)
        await asyncio.sleep(0)
    assert await store.dequeue_rollout() is None  # commits after the first try of the waiting claim
    await act(store, attempted)

    again = await soon(waiting)

    assert (again.rollout_id, again.attempt.sequence_id) == (attempted.rollout_id, 2)


async def test_waiting_claim_returns_none_after_its_timeout(store: LightningStore) -> None:
    began = time.monotonic()

    assert await soon(store.dequeue_rollout(wait=0.3)) is None
    assert await soon(store.dequeue_many_rollouts(limit=2, wait=0.3)) == []

    assert time.monotonic() - began >= 0.6


async def test_cancelled_claim_takes_no_task(store: LightningStore) -> None:
    waiting = asyncio.create_task(store.dequeue_rollout(wait=LONG_WAIT))
    await store.statistics()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    rollout = await store.enqueue_rollout("task")

    attempted = await soon(store.dequeue_rollout(wait=10))

    assert (attempted.rollout_id, attempted.attempt.sequence_id) == (rollout.rollout_id, 1)


# Requeues


async def test_retried_rollout_goes_to_the_tail(store: LightningStore) -> None:
    first = await claimed(store, "first", config=RETRYING)
    second = await store.enqueue_rollout("second")
    third = await store.enqueue_rollout("third")
    await store.update_attempt(first.rollout_id, first.attempt.attempt_id, status="failed")
    fourth = await store.enqueue_rollout("fourth")

    assert await drained(store) == [rollout.rollout_id for rollout in (second, third, first, fourth)]


async def test_rollout_set_to_queuing_goes_to_the_tail(store: LightningStore) -> None:
    first = await claimed(store, "first")
    second = await store.enqueue_rollout("second")
    await store.update_rollout(first.rollout_id, status="queuing")

    assert await drained(store) == [second.rollout_id, first.rollout_id]


@pytest.mark.parametrize("status", ["queuing", "requeuing"])
async def test_rollout_is_queued_once(store: LightningStore, status: Any) -> None:
    fresh = await store.enqueue_rollout("fresh")
    returned = await claimed(store, "returned") if await store.dequeue_rollout() else None
    assert returned is not None
    await store.update_rollout(fresh.rollout_id, status=status)
    for _ in range(3):
        await store.update_rollout(returned.rollout_id, status=status)
        await store.update_rollout(fresh.rollout_id, status=status)

    assert (await store.statistics())["queue_depth"] == 2
    assert await drained(store) == [fresh.rollout_id, returned.rollout_id]


async def test_requeue_of_a_queued_rollout_keeps_its_position(store: LightningStore) -> None:
    first, second = await store.enqueue_rollout("first"), await store.enqueue_rollout("second")
    await store.update_rollout(first.rollout_id, status="requeuing")

    assert await statuses(store, first) == ("queuing",)
    assert await drained(store) == [first.rollout_id, second.rollout_id]


@pytest.mark.parametrize("status", ["cancelled", "succeeded", "failed"])
async def test_rollout_that_ended_in_the_queue_is_not_claimed(store: LightningStore, status: Any) -> None:
    first, second = await store.enqueue_rollout("first"), await store.enqueue_rollout("second")
    await store.update_rollout(first.rollout_id, status=status)

    assert await drained(store) == [second.rollout_id]
    assert await statuses(store, first) == (status,)


# Independent copies


async def test_changing_a_returned_rollout_does_not_change_the_store(store: LightningStore) -> None:
    task, metadata = {"words": ["a"]}, {"k": ["v"]}
    rollout = await store.enqueue_rollout(task, metadata=metadata)
    before = await found(store, rollout)

    task["words"].append("b")
    metadata["k"].clear()
    rollout.input["words"] = None
    rollout.metadata.clear()
    rollout.config.retry_condition.append("failed")
    (await found(store, rollout)).input.clear()

    assert await found(store, rollout) == before
    assert (before.input, before.metadata) == ({"words": ["a"]}, {"k": ["v"]})
