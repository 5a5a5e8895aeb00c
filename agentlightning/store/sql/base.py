"""The base of the SQL store: transactions with a fixed current time, and idempotent mutations.

The response of a mutation is stored under its caller's key, in the same commit as the change. A caller that never
received the response may repeat the call, even if the store was killed and restarted in between.
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
"""Maximum number of rows that are read by id in the caller's thread."""


class Clock:
    """Wall time for timestamps and lease time for deadlines, both in seconds.

    Lease time is monotonic and stops while no store is open. So a wall clock that jumps by a day neither expires nor
    extends a lease, and attempts do not all expire when the store was closed for an hour.
    """

    def __init__(self) -> None:
        self._offset = -time.monotonic()

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return time.time()

    def lease(self) -> float:
        """Return the seconds during which the store has been open."""
        return time.monotonic() + self._offset

    def resume(self, lease: float) -> None:
        """Continue from the lease time at which the store was closed."""
        self._offset = lease - time.monotonic()

    def catch_up(self, lease: float) -> None:
        """Advance to the lease time of another server of the store if it is ahead."""
        self._offset = max(self._offset, lease - time.monotonic())


@dataclass(slots=True)
class IdempotentRequest:
    """A mutation that its caller may repeat under the same key."""

    key: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    response: bytes | None = None
    """The stored response, or None until there is one."""
    time: float = 0.0
    """Lease time at which this call stored the response."""

    def replay(self, response: bytes) -> Any:
        """Use the stored response of an earlier call, and return its result."""
        self.response = response
        return self.decode(response)


class SqlBase(LightningStore):
    """A store that uses a `Database`, without the contract's operations."""

    read_only = False
    """True if the store is read-only. Clients such as the dashboard then hide controls that change the store."""
    request: IdempotentRequest | None = None
    """The request that this copy of the store executes. Its changes are stored together with its response."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.counters = database.counters
        """Numbers of events since the store was opened. `metrics.py` describes the counters."""
        self._single_flight = SingleFlightCache()

    @property
    def signals(self) -> Signals:
        """Signals that commits send."""
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
    """Return `body` as a transaction that replays the stored response of a repeated request."""

    async def once(transaction: Transaction) -> T:
        request.response = None  # this may be the second try after the group was rolled back
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
        if cast("Any", result) not in (
            None,
            [],
        ):  # otherwise a claim found nothing, and a repeated claim may find something
            request.response, request.time = request.encode(result), lease
            transaction.store_response(request.key, request.response, lease)
        return result

    return once


def check_worker_id(worker_id: str | None) -> None:
    if worker_id is not None:
        payload.check_id(worker_id, "worker_id")
