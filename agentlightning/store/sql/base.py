"""Base class of the SQL store: transactions with a fixed current time, and idempotent mutations.

The response to a mutation is stored under the caller's idempotency key, in the same commit as the change. A caller that
did not receive the response may repeat the call, even if the store was killed and restarted in the meantime.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ... import payload
from ...errors import Conflict
from ..contract import LightningStore
from ..db.database import Body, ConflictKey, Database, Transaction
from ..db.signals import Signals
from .single_flight import SingleFlightCache
from .transitions import TransitionWriter

T = TypeVar("T")

SMALL_READ_ROWS = 16
"""Maximum number of rows to read in the caller's thread. Larger reads run in another thread."""


class Clock:
    """Wall time for timestamps and lease time for deadlines, both in seconds.

    Lease time is monotonic and stops while the store is closed. If the wall clock jumps by a day, leases neither expire
    early nor last longer. If the store is closed for an hour, its attempts do not all expire when it is opened again.
    """

    def __init__(self) -> None:
        self._offset = -time.monotonic()

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return time.time()

    def lease(self) -> float:
        """Return the total number of seconds for which the store has been open."""
        return time.monotonic() + self._offset

    def resume(self, lease: float) -> None:
        """Continue from the lease time that the store had reached when it was closed."""
        self._offset = lease - time.monotonic()

    def catch_up(self, lease: float) -> None:
        """Advance to `lease`, the lease time of another server, if that server is ahead."""
        self._offset = max(self._offset, lease - time.monotonic())


@dataclass(slots=True)
class IdempotentRequest:
    """A mutation that the caller may repeat with the same idempotency key."""

    key: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    response: bytes | None = None
    """The stored response, or None if no response has been stored yet."""
    time: float = 0.0
    """Lease time at which this call stored the response."""

    def replay(self, response: bytes) -> Any:
        """Use the response that an earlier call stored, and return the decoded result."""
        self.response = response
        return self.decode(response)


class SqlBase(LightningStore):
    """Base class of a store that uses a `Database`. Subclasses implement the contract's operations."""

    read_only = False
    """True if the store is read-only. Clients such as the dashboard then hide controls that change the store."""
    request: IdempotentRequest | None = None
    """The request being executed, set on a copy of the store that is made for this request.

    The request's changes are committed together with its response.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.counters = database.counters
        """Counts of events since the store was opened. `metrics.py` describes the counters."""
        self._single_flight = SingleFlightCache()

    @property
    def signals(self) -> Signals:
        """Signals that are sent after commits."""
        return self._database.signals

    def _transitions(self, transaction: Transaction) -> TransitionWriter:
        return TransitionWriter(transaction, self._database.dialect, self._clock.now(), self._clock.lease())

    def _write(self, body: Body[T], conflict_key: ConflictKey | None = None) -> Awaitable[T]:
        request = self.request
        if request is None:
            return self._database.write(body, conflict_key=conflict_key)
        once = execute_once(request, body, self._clock.lease())
        return self._database.write(once, key=request.key, conflict_key=conflict_key)


def execute_once(request: IdempotentRequest, body: Body[T], lease: float) -> Body[T]:
    """Return a body that executes `body` for a new request and replays the stored response for a repeated one."""

    async def once(transaction: Transaction) -> T:
        request.response = None  # this may be a second run, after the transaction was rolled back
        stored = await transaction.stored_response(request.key)
        if stored is not None:
            return request.replay(stored)
        try:
            result = await body(transaction)
        except Conflict:
            # Another server may have executed the same request in the meantime and stored its response.
            stored = await transaction.stored_response(request.key, recheck=True)
            if stored is None:
                raise
            return request.replay(stored)
        # None and [] mean that a claim found nothing. They are not stored, because a repeated claim may find something.
        if cast("Any", result) not in (None, []):
            request.response, request.time = request.encode(result), lease
            transaction.store_response(request.key, request.response, lease)
        return result

    return once


def check_worker_id(worker_id: str | None) -> None:
    if worker_id is not None:
        payload.check_id(worker_id, "worker_id")
