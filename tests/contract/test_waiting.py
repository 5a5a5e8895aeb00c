"""Waits for the end of rollouts: prompt, in the given order, with an optional timeout."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from agentlightning.errors import NotFound
from agentlightning.store import LightningStore
from agentlightning.types import EnqueueRolloutRequest

from ..conftest import Figure
from ..timing import quickest
from .conftest import every_way
from .making import RETRYING, claimed, ended, found, soon


async def test_ended_rollouts_are_returned_at_once_in_order(store: LightningStore) -> None:
    first = await ended(store, "succeeded", "first")
    second = await ended(store, "failed", "second")
    third = await store.enqueue_rollout("third")
    third = await store.update_rollout(third.rollout_id, status="cancelled")

    waited = await soon(store.wait_for_rollouts([each.rollout_id for each in (third, first, second)]))

    assert waited == [third, first, second]
    assert [each.status for each in waited] == ["cancelled", "succeeded", "failed"]


async def test_wait_for_no_rollouts_returns_at_once(store: LightningStore) -> None:
    assert await soon(store.wait_for_rollouts([])) == []


@every_way
@pytest.mark.parametrize("timeout", [None, 60])
async def test_wait_ends_with_the_last_rollout(store: LightningStore, timeout: float | None) -> None:
    first, second = await claimed(store, "first"), await claimed(store, "second")
    ids = [first.rollout_id, second.rollout_id]
    waiting = asyncio.create_task(store.wait_for_rollouts(ids, timeout))

    await store.update_attempt(second.rollout_id, "latest", status="succeeded")
    assert await store.wait_for_rollouts(ids, timeout=0) == [await found(store, second)]
    assert not waiting.done()
    await store.update_attempt(first.rollout_id, "latest", status="failed")

    assert await soon(waiting) == [await found(store, first), await found(store, second)]


async def test_wait_returns_promptly_after_the_last_rollout_ends(store: LightningStore) -> None:
    async def seconds_after_the_end() -> float:
        attempted = await claimed(store)
        waiting = asyncio.create_task(store.wait_for_rollouts([attempted.rollout_id]))
        assert await store.wait_for_rollouts([attempted.rollout_id], timeout=0.2) == []

        await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")
        over = time.monotonic()
        await soon(waiting)
        return time.monotonic() - over

    assert await quickest(seconds_after_the_end, 0.5) < 0.5


@pytest.mark.parametrize("how", ["report", "by hand", "cancelled"])
async def test_every_final_status_ends_a_wait(store: LightningStore, how: str) -> None:
    attempted = await claimed(store)
    waiting = asyncio.create_task(store.wait_for_rollouts([attempted.rollout_id]))
    match how:
        case "report":
            await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")
        case "by hand":
            await store.update_rollout(attempted.rollout_id, status="failed")
        case _:
            await store.update_rollout(attempted.rollout_id, status="cancelled")

    assert await soon(waiting) == [await found(store, attempted)]


async def test_wait_returns_ended_rollouts_at_its_timeout(store: LightningStore) -> None:
    done = await ended(store)
    open_ = await store.enqueue_rollout("open")
    began = time.monotonic()

    waited = await soon(store.wait_for_rollouts([open_.rollout_id, done.rollout_id], timeout=0.3))

    assert waited == [done]
    assert time.monotonic() - began >= 0.3


async def test_retry_does_not_end_a_wait(store: LightningStore) -> None:
    attempted = await claimed(store, config=RETRYING)
    await store.update_attempt(attempted.rollout_id, "latest", status="failed")

    assert await store.wait_for_rollouts([attempted.rollout_id], timeout=0) == []


@every_way
async def test_all_waiters_of_a_rollout_are_woken(store: LightningStore) -> None:
    attempted = await claimed(store)
    waiting = [asyncio.create_task(store.wait_for_rollouts([attempted.rollout_id])) for _ in range(20)]

    await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")

    assert await soon(asyncio.gather(*waiting)) == [[await found(store, attempted)]] * 20


async def test_wait_for_an_unknown_rollout_raises_not_found(store: LightningStore) -> None:
    rollout = await store.enqueue_rollout("task")

    for timeout in (None, 0, 5):
        with pytest.raises(NotFound, match="ro-unknown"):
            await soon(store.wait_for_rollouts([rollout.rollout_id, "ro-unknown"], timeout))


async def test_wait_for_a_thousand_rollouts_keeps_its_timeout(store: LightningStore, way: str, figure: Figure) -> None:
    rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in range(1_000)])
    ended_ones = await store.dequeue_many_rollouts(limit=3)
    for each in ended_ones:
        await store.update_attempt(each.rollout_id, each.attempt.attempt_id, status="succeeded")

    async def waiting_a_second() -> float:
        began = time.monotonic()
        waited = await store.wait_for_rollouts([rollout.rollout_id for rollout in rollouts], timeout=1)
        assert [each.rollout_id for each in waited] == [each.rollout_id for each in ended_ones]
        return time.monotonic() - began

    seconds = await quickest(waiting_a_second, 1.1)

    figure(f"{way}: waiting 1 s for 1,000 rollouts takes {seconds:.3f} s")
    assert 1.0 <= seconds <= 1.1


async def test_cancelled_wait_does_not_affect_others(store: LightningStore) -> None:
    attempted = await claimed(store)
    stops = asyncio.create_task(store.wait_for_rollouts([attempted.rollout_id]))
    stays = asyncio.create_task(store.wait_for_rollouts([attempted.rollout_id]))
    await store.statistics()

    stops.cancel()
    await asyncio.gather(stops, return_exceptions=True)
    await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")

    assert stops.cancelled()
    assert await soon(stays) == [await found(store, attempted)]


async def test_wait_works_in_another_thread(store: LightningStore) -> None:
    attempted = await claimed(store)
    waited: list[Any] = []
    thread = threading.Thread(
        target=lambda: waited.extend(asyncio.run(soon(store.wait_for_rollouts([attempted.rollout_id]))))
    )
    thread.start()

    await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")
    await asyncio.to_thread(thread.join)

    assert waited == [await found(store, attempted)]
