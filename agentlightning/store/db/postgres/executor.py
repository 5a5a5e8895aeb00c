"""The bodies of a group, side by side in one PostgreSQL transaction, so that what they all ask is asked once.

A body is driven up to where it needs rows. When all have come so far, what they ask alike is sent as one statement with
the values of them all (`bulk.py`), and each is driven on with its own rows. What a body changes is held back until it
looks at it, or ends. So a group takes about as many round trips as its longest body.

Only bodies about different things are side by side; others follow, and see what those have changed.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Generator, Iterable, Iterator, Sequence
from typing import Any, cast

from ....errors import AgentLightningError
from ..database import Row, Transaction
from ..write_requests import Job
from .coalescing import HeldBack, Values, changed_table
from .row_batches import Bulk

logger = logging.getLogger(__name__)


def waves(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Those who may run side by side, wave after wave. Who is about nothing in particular is alone, and in turn."""
    left = list(jobs)
    while left:
        wave = _first_wave(left)
        yield wave
        gone = set(map(id, wave))
        left = [job for job in left if id(job) not in gone]


def _first_wave(jobs: list[Job]) -> list[Job]:
    first = jobs[0].place
    if first is None:
        return jobs[:1]
    wave, seen = list[Job](), set[Any]()
    for job in jobs:
        if job.place is None:
            break
        if job.place.part == first.part:
            names = {name for name in (("key", job.key), ("id", job.place.id)) if name[1] is not None}
            if seen.isdisjoint(names):
                wave.append(job)
            seen |= names
    return wave


class Group:
    """The bodies of a group, and what they share: one transaction."""

    def __init__(self, bulk: Bulk, answered: set[str]) -> None:
        self._bulk = bulk
        self.answered = answered
        """The questions of these bodies that were answered before."""
        self.kept: dict[str, tuple[str, bytes, float]] = {}
        """The answers that are still to be kept."""
        self.announced: list[tuple[str, int | None]] = []

    async def run(self, jobs: Sequence[Job]) -> Job | None:
        """Run bodies side by side; one after whose failure nothing can be committed, or None if there is none."""
        bodies = [_Running(job, self) for job in jobs]
        asking = [body for body in bodies if body.goes_on()]
        while asking:
            await self._answer(asking)
            asking = [body for body in asking if body.goes_on()]
        ended = [body.transaction for body in bodies if body.job.error is None]
        await self._send(ended)
        for transaction in ended:
            self.announced += transaction.announced
        return next((body.job for body in bodies if body.has_spoiled), None)

    async def _answer(self, bodies: Iterable[_Running]) -> None:
        """Give each the rows that it asks for."""
        by_kind: dict[Any, list[_Running]] = {}
        for body in bodies:
            by_kind.setdefault((type(body.asks), body.asks.sql), []).append(body)
        for (kind, sql), alike in by_kind.items():
            values = [each for body in alike for each in body.asks.values]
            if kind is _Sending:
                await self._send([body.transaction for body in alike])
            elif kind is _Taking:
                limits: list[int] = [limit for (limit,) in values]
                self._share_out(await self._bulk.fetch(sql, sum(limits)), alike, limits)
            else:
                sizes = [len(body.asks.values) for body in alike]
                self._share_out(await self._bulk.fetch_each(sql, values), alike, sizes)

    def _share_out(self, found: Sequence[Any], bodies: list[_Running], sizes: list[int]) -> None:
        for body, size in zip(bodies, sizes, strict=True):
            body.answer, found = found[:size], found[size:]

    async def _send(self, transactions: Iterable[_Transaction]) -> None:
        await self._bulk.send([each.held_back.taken() for each in transactions if each.held_back])


class _Running:
    """A body that is under way."""

    def __init__(self, job: Job, group: Group) -> None:
        self.job = job
        self.transaction = _Transaction(group)
        job.counted = self.transaction.counted
        self.asks = _Fetching("", ())
        self.answer: Any = None
        self.has_spoiled = False
        """It failed, and what it had changed by then cannot be taken back alone."""
        self._body = cast("Coroutine[Any, Any, Any]", job.body(self.transaction))

    def goes_on(self) -> bool:
        """Drive it on with its answer, up to what it asks next; False when it has ended."""
        answer, self.answer = self.answer, None
        try:
            self.asks = self._body.send(answer)
        except StopIteration as end:
            self.job.result, self.job.error = end.value, None
            return False
        except Exception as error:
            self.job.error = error
            self.has_spoiled = self.transaction.has_changed
            if not isinstance(error, AgentLightningError):
                logger.exception("A transaction failed")
            return False
        return True


class _Fetching:
    """What a body waits for: the rows of a statement, for each of these values."""

    def __init__(self, sql: str, values: Sequence[Values]) -> None:
        self.sql = sql
        self.values = values

    def __await__(self) -> Generator[_Fetching, Any, Any]:
        return (yield self)


class _Taking(_Fetching):
    """Rows that nobody else takes."""


class _Sending(_Fetching):
    """That what it holds back is sent."""


class _Transaction(Transaction):
    """What a body sees of its group's."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.held_back = HeldBack()
        self.has_changed = False
        """Something has left for the database."""
        self.announced: list[tuple[str, int | None]] = []
        self.counted: dict[str, int] = {}

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        return (await self.fetch_each(sql, [values]))[0]

    async def fetch_each(self, sql: str, values: Sequence[Values]) -> Sequence[Sequence[Row]]:
        await self._send_what_concerns(sql)
        self.has_changed |= changed_table(sql) is not None
        return await _Fetching(sql, values)

    async def take(self, sql: str, limit: int) -> Sequence[Row]:
        await self._send_what_concerns(sql)
        return await _Taking(sql, [(limit,)])

    async def execute(self, sql: str, *values: Any) -> None:
        await self.execute_many(sql, [values])

    async def execute_many(self, sql: str, rows: Iterable[Values]) -> None:
        await self._send_what_concerns(sql)
        if changed_table(sql) is not None:
            self.held_back.add(sql, list(rows))
            return
        self.has_changed = True
        await _Fetching(sql, list(rows))

    async def answer_to(self, key: str, *, anew: bool = False) -> bytes | None:
        if key in self._group.kept:  # the same question is in this group twice
            _, answer, time = self._group.kept[key]
            await self.keep_answer(key, answer, time + 1)
            return answer
        return await super().answer_to(key) if anew or key in self._group.answered else None

    async def keep_answer(self, key: str, answer: bytes, time: float) -> None:
        self._group.kept[key] = (key, answer, time)

    def announce(self, topic: str, count: int | None = None) -> None:
        self.announced.append((topic, count))

    async def _send_what_concerns(self, sql: str) -> None:
        if self.held_back.concern(sql):
            self.has_changed = True
            await _Sending("", ())
