"""Batch executor: runs the transaction bodies of a group of requests concurrently, so that they share statements.

All bodies run in one PostgreSQL transaction. Each body runs until it needs rows from the database. When all running
bodies are waiting for rows, identical statements are sent as one statement with the values from all of these bodies
(`coalescing.py`), and each body then continues with its own rows. A body's changes are buffered until the body uses a
changed table or ends. A group therefore takes about as many round trips as the one body that needs the most.

Bodies run concurrently only if their conflict keys allow it. The other bodies run later in the same transaction, and
see the changes made by the earlier ones.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from ....errors import AgentLightningError
from ..database import GroupResponses, Row, Transaction, Values, WriteRequest
from ..signals import Notification
from .coalescing import RowBatcher, WriteBuffer, changed_table

logger = logging.getLogger(__name__)


def conflict_free_groups(requests: Sequence[WriteRequest]) -> Iterator[list[WriteRequest]]:
    """Split requests into groups of requests that can run concurrently.

    A request without a conflict key is in a group of its own.
    """
    left = list(requests)
    while left:
        group = _first_group(left)
        yield group
        taken = set(map(id, group))
        left = [request for request in left if id(request) not in taken]


def _first_group(requests: list[WriteRequest]) -> list[WriteRequest]:
    first = requests[0].conflict_key
    if first is None:
        return requests[:1]
    group, seen = list[WriteRequest](), set[Any]()
    for request in requests:
        if request.conflict_key is None:
            break
        if request.conflict_key.part == first.part:
            ids = {each for each in (("key", request.key), ("id", request.conflict_key.id)) if each[1] is not None}
            if seen.isdisjoint(ids):
                group.append(request)
            seen |= ids
    return group


class BatchExecutor:
    """Runs the bodies of requests in one transaction, and collects the responses and notifications."""

    def __init__(self, batcher: RowBatcher, responses: GroupResponses) -> None:
        self._batcher = batcher
        self.responses = responses
        self.notifications: list[Notification] = []

    async def run(self, requests: Sequence[WriteRequest]) -> WriteRequest | None:
        """Run the bodies of the requests concurrently.

        Return a failed request that requires a rollback of the whole transaction, or None if there is none.
        """
        bodies = [_RunningBody(request, self.responses) for request in requests]
        waiting = [body for body in bodies if body.resume()]
        while waiting:
            await self._fetch_rows(waiting)
            waiting = [body for body in waiting if body.resume()]
        succeeded = [body for body in bodies if body.request.error is None]
        await self._flush(succeeded)
        for body in succeeded:
            self.notifications += body.notifications
        # Changes that a failed body has already sent can be undone only by rolling back the transaction.
        return next((body.request for body in bodies if body.request.error and body.has_sent_changes), None)

    async def _fetch_rows(self, bodies: Iterable[_RunningBody]) -> None:
        """Fetch the rows that the bodies are waiting for. Identical statements are sent as one."""
        by_statement: dict[Any, list[_RunningBody]] = {}
        for body in bodies:
            by_statement.setdefault((body.waits_for.kind, body.waits_for.sql), []).append(body)
        for (kind, sql), group in by_statement.items():
            values = [each for body in group for each in body.waits_for.values]
            if kind == "flush":
                await self._flush(group)
            elif kind == "claim":
                limits: list[int] = [limit for (limit,) in values]
                self._distribute(await self._batcher.fetch(sql, sum(limits)), group, limits)
            else:
                sizes = [len(body.waits_for.values) for body in group]
                self._distribute(await self._batcher.fetch_each(sql, values), group, sizes)

    def _distribute(self, found: Sequence[Any], bodies: list[_RunningBody], sizes: list[int]) -> None:
        for body, size in zip(bodies, sizes, strict=True):
            body.rows, found = found[:size], found[size:]

    async def _flush(self, bodies: Iterable[_RunningBody]) -> None:
        await self._batcher.send([body.buffer.take() for body in bodies if body.buffer])


@dataclass(frozen=True)
class _Wait:
    """Suspends a body until the rows that a statement returns for each of `values` have been fetched."""

    sql: str
    values: Sequence[Values]
    kind: Literal["fetch", "claim", "flush"] = "fetch"
    """`fetch`: wait for rows. `claim`: wait for rows that no other body receives.

    `flush`: wait until the body's buffered changes have been sent. `sql` and `values` are then empty.
    """

    def __await__(self) -> Generator[_Wait, Any, Any]:
        return (yield self)


class _RunningBody(Transaction):
    """A transaction body in progress. The object is also the `Transaction` that is passed to the body.

    All bodies share one database transaction.
    """

    def __init__(self, request: WriteRequest, responses: GroupResponses) -> None:
        super().__init__(responses)
        self.request = request
        request.counts = self.counts
        self.waits_for = _Wait("", ())
        self.rows: Any = None
        self.buffer = WriteBuffer()
        self.has_sent_changes = False
        self._body = cast("Coroutine[Any, Any, Any]", request.body(self))

    def resume(self) -> bool:
        """Run the body, with the rows fetched for it, until its next wait. Return False if it has ended."""
        rows, self.rows = self.rows, None
        try:
            self.waits_for = self._body.send(rows)
        except StopIteration as end:
            self.request.result, self.request.error = end.value, None
            return False
        except Exception as error:
            self.request.error = error
            if not isinstance(error, AgentLightningError):
                logger.exception("A transaction failed")
            return False
        return True

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        return (await self.fetch_each(sql, [values]))[0]

    async def fetch_each(self, sql: str, values: Sequence[Values]) -> Sequence[Sequence[Row]]:
        await self._flush_before(sql)
        self.has_sent_changes |= changed_table(sql) is not None
        return await _Wait(sql, values)

    async def claim_rows(self, sql: str, limit: int) -> Sequence[Row]:
        await self._flush_before(sql)
        return await _Wait(sql, [(limit,)], "claim")

    async def execute(self, sql: str, *values: Any) -> None:
        await self.execute_many(sql, [values])

    async def execute_many(self, sql: str, rows: Iterable[Values]) -> None:
        await self._flush_before(sql)
        if changed_table(sql) is not None:
            self.buffer.add(sql, list(rows))
            return
        self.has_sent_changes = True
        await _Wait(sql, list(rows))

    async def _flush_before(self, sql: str) -> None:
        if self.buffer.must_precede(sql):
            self.has_sent_changes = True
            await _Wait("", (), "flush")
