"""What every part of the SQL store stands on: transactions at one moment, answers given once, pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ... import payload
from ...types import PaginatedResult
from ..contract import FilterLogic, LightningStore, SortOrder
from ..db.clock import Clock
from ..db.database import Body, Database, Place, Row, Transaction
from ..db.signals import Signals
from .idempotency import AlreadyAnswered, asked, once
from .query import Query, Rows, check_page
from .single_flight import Shared
from .transitions import Moves

T = TypeVar("T")

FEW = 16
"""So many rows, found by their ids, are a brief matter."""


class SqlBase(LightningStore):
    """A store over one `Database`, without its operations."""

    read_only = False
    """Whoever looks at it need not be offered what would change it."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.counters = database.counters
        """What happened since the store was opened; `metrics.py` says what is counted."""
        self._shared = Shared()

    @property
    def signals(self) -> Signals:
        """Who is told what commits change."""
        return self._database.signals

    def _moves(self, transaction: Transaction) -> Moves:
        return Moves(transaction, self._database.dialect, self._clock.now(), self._clock.lease())

    async def _write(self, body: Body[T], place: Place | None = None) -> T:
        question = asked.get()
        if question is None:
            return await self._database.write(body, place=place)
        answering = once(question, body, self._clock.lease())
        result = await self._database.write(answering, key=question.key, place=place)
        if isinstance(result, AlreadyAnswered):
            raise result
        return result

    async def _fetch(self, sql: str, *values: Any, brief: bool = False) -> Sequence[Row]:
        async def body(transaction: Transaction) -> Sequence[Row]:
            return await transaction.fetch(sql, *values)

        return await self._database.read(body, brief=brief, single=True)

    async def _page(
        self,
        query: Query,
        noun: Callable[[Row], T],
        logic: FilterLogic,
        order: SortOrder,
        limit: int,
        offset: int,
        cursor: str | None,
        *,
        brief: bool = False,
    ) -> PaginatedResult[T]:
        check_page(limit, offset, logic, order, cursor)
        if cursor is not None:
            query.after(cursor)

        async def body(transaction: Transaction) -> Rows:
            return await query.page(transaction, logic=logic, limit=limit, offset=offset)

        page = await self._database.read(body, brief=brief)
        return PaginatedResult[Any].model_construct(
            items=[noun(row) for row in page.rows], limit=limit, offset=offset, total=page.total, cursor=page.cursor
        )


def check_worker(worker_id: str | None) -> None:
    if worker_id is not None:
        payload.check_id(worker_id, "worker_id")
