"""Single-flight cache with a poll throttle: concurrent identical queries share one result.

Queries that several callers poll are also computed less often. As a result, many observers of a run cost the store
about as much as a single observer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

BURST_SECONDS = 5.0
"""Duration of a burst, in seconds. During a burst, computations of a query are delayed so that more callers share them.

Concurrent calls for the same query start or extend a burst. A query with a single caller is never delayed.
"""
GATHER_SECONDS = 0.03
"""Time in seconds that the first caller in a burst waits for other callers to join."""
THROTTLE_FACTOR = 20
"""Delay before the next computation in a burst, as a multiple of the duration of the previous one.

This limits a query that takes up to 50 ms to 5 % of one core.
"""
MAX_THROTTLE_SECONDS = 1.0
"""Maximum delay before the next computation in a burst."""
MAX_QUERIES = 64
"""Maximum number of queries to remember. At this limit, queries that are neither pending nor throttled are dropped."""


class SingleFlightCache:
    """Results shared by concurrent callers. A caller never gets a result whose computation started before the call."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    async def get(self, query: Hashable, compute: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `compute`, shared with all callers of this query that arrive before `compute` starts."""
        flight = self._flight(query)
        if flight.pending or flight.running:
            flight.burst_until = time.monotonic() + BURST_SECONDS
        pending = flight.pending
        if pending is None or pending.get_loop() is not asyncio.get_running_loop():
            pending = flight.pending = asyncio.ensure_future(_compute(flight, compute))
            pending.add_done_callback(_retrieve_exception)
        return await asyncio.shield(pending)

    def _flight(self, query: Hashable) -> _Flight:
        if query not in self._flights:
            if len(self._flights) >= MAX_QUERIES:
                now = time.monotonic()
                self._flights = {
                    key: each for key, each in self._flights.items() if each.pending or each.throttled_until > now
                }
            self._flights[query] = _Flight()
        return self._flights[query]


@dataclass
class _Flight:
    """The computations of one query. Times are those of `time.monotonic`."""

    pending: asyncio.Future[Any] | None = None
    """The result of a computation that has not started yet."""
    running: int = 0
    """Number of computations in progress."""
    burst_until: float = 0.0
    throttled_until: float = 0.0


async def _compute(flight: _Flight, compute: Callable[[], Awaitable[T]]) -> T:
    now = time.monotonic()
    await asyncio.sleep(max(GATHER_SECONDS, flight.throttled_until - now) if now < flight.burst_until else 0)
    # From now on, a new caller needs another computation, because it may expect a change that this one
    # does not include.
    flight.pending = None
    flight.running += 1
    started = time.monotonic()
    try:
        return await compute()
    finally:
        ended = time.monotonic()
        flight.running -= 1
        flight.throttled_until = ended + min(THROTTLE_FACTOR * (ended - started), MAX_THROTTLE_SECONDS)


def _retrieve_exception(result: asyncio.Future[Any]) -> None:
    """Mark the exception as retrieved, so that asyncio does not report it if all callers were cancelled."""
    if not result.cancelled():
        result.exception()
