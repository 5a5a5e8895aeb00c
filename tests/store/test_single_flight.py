"""Single-flight cache: one computation for concurrent equal queries."""

from __future__ import annotations

import asyncio
import time

import pytest

from agentlightning.store.sql.single_flight import MAX_QUERIES, MAX_THROTTLE_SECONDS, SingleFlightCache

from ..timing import quickest


class Computation:
    """Returns how many times it was computed; blocks while `may_finish` is clear."""

    def __init__(self) -> None:
        self.count = 0
        self.started = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    async def __call__(self) -> int:
        self.started.set()
        await self.may_finish.wait()
        self.count += 1
        return self.count


async def test_concurrent_callers_share_one_result() -> None:
    cache, compute = SingleFlightCache(), Computation()

    assert await asyncio.gather(*(cache.get("rows", compute) for _ in range(20))) == [1] * 20
    assert await asyncio.gather(*(cache.get("rows", compute) for _ in range(20))) == [2] * 20


async def test_result_is_never_older_than_the_call() -> None:
    cache, compute = SingleFlightCache(), Computation()
    compute.may_finish.clear()
    early = asyncio.ensure_future(cache.get("rows", compute))
    await compute.started.wait()

    late = asyncio.ensure_future(cache.get("rows", compute))
    await asyncio.sleep(0)
    compute.may_finish.set()

    assert (await early, await late) == (1, 2)


async def test_single_caller_is_not_throttled() -> None:
    cache = SingleFlightCache()

    async def compute() -> None:
        await asyncio.sleep(0.1)

    async def seconds() -> float:
        started = time.monotonic()
        await cache.get("rows", compute)
        return time.monotonic() - started

    await cache.get("rows", compute)
    assert await quickest(seconds, MAX_THROTTLE_SECONDS) < MAX_THROTTLE_SECONDS


async def test_other_queries_do_not_wait() -> None:
    cache, slow, quick = SingleFlightCache(), Computation(), Computation()
    slow.may_finish.clear()
    waiting = asyncio.ensure_future(cache.get("all", slow))
    await slow.started.wait()

    assert await cache.get("few", quick) == 1

    slow.may_finish.set()
    assert await waiting == 1


async def test_cancelled_caller_does_not_cancel_the_others() -> None:
    cache, compute = SingleFlightCache(), Computation()
    cancelled = asyncio.ensure_future(cache.get("rows", compute))
    other = asyncio.ensure_future(cache.get("rows", compute))
    await asyncio.sleep(0)

    cancelled.cancel()

    assert await other == 1


async def test_error_is_raised_to_all_callers_and_not_cached() -> None:
    cache = SingleFlightCache()

    async def fail() -> int:
        raise ValueError("no such column")

    results = await asyncio.gather(*(cache.get("rows", fail) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in results] == ["no such column"] * 3
    with pytest.raises(ValueError, match="no such column"):
        await cache.get("rows", fail)


async def test_old_queries_are_forgotten() -> None:
    cache, compute = SingleFlightCache(), Computation()
    for query in range(2 * MAX_QUERIES):
        await cache.get(query, compute)
        cache._flights[query].throttled_until = 0

    assert len(cache._flights) <= MAX_QUERIES
