"""One answer for all who ask the same at about the same time."""

from __future__ import annotations

import asyncio
import time

import pytest

from agentlightning.store.sql.single_flight import LONGEST_REST, REMEMBERED, SingleFlightCache

from ..timing import quickest


class Counting:
    """Work whose answer is how often it was done; it goes on when it is told to."""

    def __init__(self) -> None:
        self.done = 0
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self) -> int:
        self.begun.set()
        await self.may_end.wait()
        self.done += 1
        return self.done


async def test_concurrent_callers_share_one_result() -> None:
    shared, work = SingleFlightCache(), Counting()

    assert await asyncio.gather(*(shared.get("rows", work) for _ in range(20))) == [1] * 20
    assert await asyncio.gather(*(shared.get("rows", work) for _ in range(20))) == [2] * 20


async def test_result_is_never_older_than_its_call() -> None:
    shared, work = SingleFlightCache(), Counting()
    work.may_end.clear()
    early = asyncio.ensure_future(shared.get("rows", work))
    await work.begun.wait()

    late = asyncio.ensure_future(shared.get("rows", work))
    await asyncio.sleep(0)
    work.may_end.set()

    assert (await early, await late) == (1, 2)


async def test_single_caller_never_waits() -> None:
    shared = SingleFlightCache()

    async def slow() -> None:
        await asyncio.sleep(0.1)

    async def seconds_again() -> float:
        began = time.monotonic()
        await shared.get("rows", slow)
        return time.monotonic() - began

    await shared.get("rows", slow)
    assert await quickest(seconds_again, LONGEST_REST) < LONGEST_REST


async def test_other_queries_do_not_wait() -> None:
    shared, slow, quick = SingleFlightCache(), Counting(), Counting()
    slow.may_end.clear()
    waiting = asyncio.ensure_future(shared.get("all", slow))
    await slow.begun.wait()

    assert await shared.get("few", quick) == 1

    slow.may_end.set()
    assert await waiting == 1


async def test_cancelled_caller_does_not_cancel_the_result() -> None:
    shared, work = SingleFlightCache(), Counting()
    leaving = asyncio.ensure_future(shared.get("rows", work))
    staying = asyncio.ensure_future(shared.get("rows", work))
    await asyncio.sleep(0)

    leaving.cancel()

    assert await staying == 1


async def test_error_reaches_all_callers_and_is_not_cached() -> None:
    shared = SingleFlightCache()

    async def fail() -> int:
        raise ValueError("no such column")

    found = await asyncio.gather(*(shared.get("rows", fail) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in found] == ["no such column"] * 3
    with pytest.raises(ValueError, match="no such column"):
        await shared.get("rows", fail)


async def test_old_queries_are_dropped() -> None:
    shared, work = SingleFlightCache(), Counting()
    for question in range(2 * REMEMBERED):
        await shared.get(question, work)
        shared._turns[question].rests_until = 0

    assert len(shared._turns) <= REMEMBERED
