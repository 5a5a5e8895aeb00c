"""The base of the SQL store: transactions at one moment, idempotent writes, pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from ... import payload
from ...errors import Conflict
from ...types import PaginatedResult
from ..contract import FilterLogic, LightningStore, SortOrder
from ..db.clock import Clock
from ..db.database import Body, ConflictKey, Database, Row, Transaction
from ..db.signals import Signals
from .idempotency import IdempotentRequest
from .query import Query, Rows, Sorts, check_page
from .single_flight import SingleFlightCache
from .transitions import TransitionWriter

T = TypeVar("T")

SMALL_READ_ROWS = 16
"""Up to this many rows, found by their ids, are read in the caller's thread."""


class SqlBase(LightningStore):
    """A store over one `Database`, without its operations."""

    read_only = False
    """Clients, such as the dashboard, hide what would change a read-only store."""
    request: IdempotentRequest | None = None
    """The request that this copy of the store executes: its changes are stored together with its response."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.counters = database.counters
        """Events since the store was opened; `metrics.py` says what is counted."""
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

    async def _fetch(self, sql: str, *values: Any, short: bool = False) -> Sequence[Row]:
        async def body(transaction: Transaction) -> Sequence[Row]:
            return await transaction.fetch(sql, *values)

        return await self._database.read(body, short=short, single_statement=True)

    async def _page(
        self,
        query: Query,
        convert: Callable[[Row], T],
        sorts: Sorts,
        *,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        cursor: str | None = None,
        short: bool = False,
    ) -> PaginatedResult[T]:
        """Read the page of a query that these options of the contract's query operations select."""
        check_page(limit, offset, filter_logic, sort_order, cursor)
        query.sort(sort_by, sort_order, sorts)
        if cursor is not None:
            query.after(cursor)

        async def body(transaction: Transaction) -> Rows:
            return await query.page(transaction, logic=filter_logic, limit=limit, offset=offset)

        page = await self._database.read(body, short=short)
        return PaginatedResult[Any].model_construct(
            items=[convert(row) for row in page.rows], limit=limit, offset=offset, total=page.total, cursor=page.cursor
        )


def execute_once(request: IdempotentRequest, body: Body[T], lease: float) -> Body[T]:
    """Return `body` as a transaction that replays the stored response of a repeated request."""

    async def once(transaction: Transaction) -> T:
        request.response = None  # this may be the second try of a group that was rolled back
        stored = await transaction.stored_response(request.key)
        if stored is not None:
            return request.replay(stored)
        try:
            result = await body(transaction)
        except Conflict:
            # Another server may have executed the same request by now: then its response is there.
            stored = await transaction.stored_response(request.key, recheck=True)
            if stored is None:
                raise
            return request.replay(stored)
        if cast("Any", result) not in (None, []):  # else a claim found nothing, and a repeated one may find something
            request.response, request.time = request.encode(result), lease
            await transaction.store_response(request.key, request.response, lease)
        return result

    return once


def check_worker_id(worker_id: str | None) -> None:
    if worker_id is not None:
        payload.check_id(worker_id, "worker_id")
