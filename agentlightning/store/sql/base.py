"""Base class of the SQL store, its clock, and the idempotent execution of requests that change the store.

The response to such a request is stored under the client's idempotency key, in the same commit as the changes. A client
that did not receive the response can repeat the request with the same key, and the changes are not made again. This
works even if the store was killed and restarted in the meantime.
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
"""Maximum number of rows in a short read.

Short reads of a SQLite file run in the calling thread. Other reads run in another thread.
"""


class Clock:
    """Wall time for timestamps and lease time for deadlines, both in seconds.

    Lease time follows the monotonic clock and stops while the store is closed. If the wall clock jumps by a day,
    deadlines are not affected. If the store is closed for an hour, its attempts do not all expire when the store is
    opened again.
    """

    def __init__(self) -> None:
        self._offset = -time.monotonic()

    def now(self) -> float:
        """Return the wall time, in seconds since the epoch."""
        return time.time()

    def lease(self) -> float:
        """Return the current lease time."""
        return time.monotonic() + self._offset

    def resume(self, lease: float) -> None:
        """Continue from `lease`, the latest lease time that was saved in the database before the store was opened."""
        self._offset = lease - time.monotonic()

    def catch_up(self, lease: float) -> None:
        """Advance to `lease`, the lease time that several servers share, if this clock is behind it."""
        self._offset = max(self._offset, lease - time.monotonic())


@dataclass(slots=True)
class IdempotentRequest:
    """A request that changes the store. If it is repeated with the same idempotency key, it takes effect only once."""

    key: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    response: bytes | None = None
    """The encoded response that is stored for this request, or None if no response is stored."""
    time: float = 0.0
    """Lease time at which this request stored its response, or 0 if it has not stored one."""

    def replay(self, response: bytes) -> Any:
        """Set `response` to the response that an earlier request with this key stored. Return the decoded result."""
        self.response = response
        return self.decode(response)


class SqlBase(LightningStore):
    """Base class for a store that keeps its data in a `Database`. Subclasses implement the contract's operations."""

    read_only = False
    """True if the store is read-only. Clients such as the dashboard then hide controls that change the store."""
    request: IdempotentRequest | None = None
    """The idempotent request that this object executes, or None if calls are made without an idempotency key.

    The HTTP server creates a copy of the store for each idempotent request and sets this attribute on the copy. The
    response is then stored in the same commit as the changes made by the request.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.counters = database.counters
        """Counts of events since the store was opened. The counters are described in `store/http/metrics.py`."""
        self._single_flight = SingleFlightCache()

    @property
    def signals(self) -> Signals:
        """The waiters and subscribers that are notified after a change has been committed."""
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
    """Return a transaction body that runs `body` only if the request is new.

    If the request is a repetition, the returned body decodes and returns the stored response. `lease` is the lease time
    to store with a new response.
    """

    async def once(transaction: Transaction) -> T:
        request.response = None  # an earlier run, which was rolled back, may have set it
        stored = await transaction.stored_response(request.key)
        if stored is not None:
            return request.replay(stored)
        try:
            result = await body(transaction)
        except Conflict:
            # The conflict may exist because another server has just executed the same request and stored its response.
            stored = await transaction.stored_response(request.key, recheck=True)
            if stored is None:
                raise
            return request.replay(stored)
        # A claim that does not find a rollout returns None or []. Do not store such a result, because a repeated claim
        # may find a rollout.
        if cast("Any", result) not in (None, []):
            request.response, request.time = request.encode(result), lease
            transaction.store_response(request.key, request.response, lease)
        return result

    return once


def check_worker_id(worker_id: str | None) -> None:
    if worker_id is not None:
        payload.check_id(worker_id, "worker_id")
