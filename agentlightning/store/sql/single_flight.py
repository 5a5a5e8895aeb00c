"""Single-flight cache with throttling: concurrent identical queries share one result.

A query that several callers poll is also computed less often. Many dashboards that poll the same query therefore put
about as much load on the store as one dashboard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

BURST_SECONDS = 5.0
"""Duration of a burst, in seconds, counted from the latest overlapping call.

A call overlaps if it arrives while the same query is already pending or running for another caller. The first
overlapping call starts a burst, and each further one extends it. During a burst, every computation of the query is
delayed, so that more callers can share its result. A query without overlapping calls is never delayed.
"""
GATHER_SECONDS = 0.03
"""Minimum delay of a computation in a burst, in seconds. Other callers of the query can join during the delay."""
THROTTLE_FACTOR = 20
"""Delay before the next computation in a burst, as a multiple of the duration of the previous computation.

During a burst, a query whose computation takes at most 50 ms therefore uses at most 5 % of one CPU core. For longer
computations, `MAX_THROTTLE_SECONDS` limits the delay.
"""
MAX_THROTTLE_SECONDS = 1.0
"""Maximum delay before the next computation in a burst, in seconds."""
MAX_QUERIES = 64
"""Number of remembered queries that triggers a clean-up, to limit memory use.

The clean-up removes all queries that are neither waiting to be computed nor within the delay after a computation.
"""


class SingleFlightCache:
    """Shares query results between concurrent callers.

    A caller never gets a result whose computation started before the call.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    async def get(self, query: Hashable, compute: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a query: call `compute`, or join a computation of the query that has not started yet.

        A computation is shared only by callers in the same event loop.
        """
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
    """The state of one query. Times are values of `time.monotonic`."""

    pending: asyncio.Future[Any] | None = None
    """The future result of a computation that has not started yet, or None if there is no such computation."""
    running: int = 0
    """Number of computations in progress."""
    burst_until: float = 0.0
    throttled_until: float = 0.0


async def _compute(flight: _Flight, compute: Callable[[], Awaitable[T]]) -> T:
    now = time.monotonic()
    await asyncio.sleep(max(GATHER_SECONDS, flight.throttled_until - now) if now < flight.burst_until else 0)
    # From now on, a new caller needs another computation, because the result of this one may not include a change that
    # was made just before the new call.
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
    """Retrieve the exception, if any. Otherwise, asyncio would log it as unretrieved if all callers were cancelled."""
    if not result.cancelled():
        result.exception()
