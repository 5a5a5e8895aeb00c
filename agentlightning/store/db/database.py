"""What the store asks of a database: transactions, rows, and word of what a commit changed.

SQL is written once, for all: parameters are `?1`, `?2`, …; the few words in which databases differ are in `Dialect`.
A transaction's body is an `async def` that awaits nothing but its transaction, and may be run more than once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from .signals import Signals

T = TypeVar("T")
Row = Sequence[Any]


@dataclass(frozen=True)
class Dialect:
    """Where two databases say the same thing differently."""

    bytes: str
    """The type of a column of bytes."""
    text: str
    """The type of a column of text, which sorts by its code points."""
    serial: str
    """The type of a primary key that numbers rows in the order they came."""
    contains: str
    """`{column}` holds `{value}` as a literal part, case and all."""
    bytes_contain: str
    """The same of a column of bytes, which are UTF-8."""
    for_update: str
    """Ends a SELECT whose rows will be changed."""
    skip_locked: str
    """Ends a SELECT that takes rows nobody else is taking."""
    arrays: bool
    """A parameter may be a list of values."""
    transaction_number: str
    """Numbers transactions in the order they began to write; where they never overlap, any constant."""
    oldest_transaction: str
    """The number of the oldest one under way; all before it are over."""

    def any_of(self, values: Sequence[Any], first: int) -> tuple[str, list[Any]]:
        """`= ANY (?first)`, or `IN (?first, …)`, and its parameters."""
        if self.arrays:
            return f"= ANY (?{first})", [list(values)]
        # Padded to a power of two, so that few statements differ.
        size = 1 << max(0, len(values) - 1).bit_length()
        padded = [*values, *[values[-1]] * (size - len(values))]
        return "IN (" + ", ".join(f"?{first + index}" for index in range(size)) + ")", padded


KEEP_ANSWER = "INSERT INTO answers (key, answer, time) VALUES (?1, ?2, ?3)"


class Transaction(Protocol):
    """Statements that take effect together, or not at all."""

    counted: dict[str, int]
    """What the body that runs has counted."""

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """All rows of a statement."""
        ...

    async def fetch_each(self, sql: str, values: Sequence[Sequence[Any]]) -> Sequence[Sequence[Row]]:
        """All rows of a statement, for each of `values`."""
        return [await self.fetch(sql, *each) for each in values]

    async def take(self, sql: str, limit: int) -> Sequence[Row]:
        """The rows of a statement whose only value is how many at most, and which takes them from all others."""
        return await self.fetch(sql, limit)

    async def execute(self, sql: str, *values: Any) -> None:
        """A statement whose rows do not matter."""
        ...

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """The same statement once for each of `rows`."""
        ...

    async def answer_to(self, key: str, *, anew: bool = False) -> bytes | None:
        """What was answered to the question asked under `key`, if it was asked before; `anew`: by this very moment.

        Whoever is given it holds on to it: it is not taken back any more.
        """
        if not await self.fetch("SELECT 1 FROM answers WHERE key = ?1", key):
            return None
        found = await self.fetch("UPDATE answers SET time = time + 1 WHERE key = ?1 RETURNING answer", key)
        return found[0][0] if found else None  # another server may have taken it back in between

    async def keep_answer(self, key: str, answer: bytes, time: float) -> None:
        """Keep what is answered, with what the question has changed."""
        await self.execute(KEEP_ANSWER, key, answer, time)

    async def take_back_answer(self, key: str, time: float) -> bool:
        """As if the question had not been asked at `time`; False when it was asked again, and answered so."""
        return bool(await self.fetch("DELETE FROM answers WHERE key = ?1 AND time = ?2 RETURNING 1", key, time))

    def announce(self, topic: str, count: int | None = None) -> None:
        """Wake those who wait for `topic` after the commit: `count` of them, or all."""
        ...

    def count(self, what: str, times: int = 1) -> None:
        """Add to the counter of `what` after the commit."""
        self.counted[what] = self.counted.get(what, 0) + times


Body = Callable[[Transaction], Awaitable[T]]


class Place(NamedTuple):
    """Where in the store a body does its work: two in one part, but not about the same id, have nothing in common."""

    part: Literal["new", "queue", "attempts"]
    id: str | None = None

    @classmethod
    def attempts_of(cls, rollout_id: str) -> Place:
        """The attempts of a rollout, their spans, and what follows for it."""
        return cls("attempts", rollout_id)


NEW = Place("new")
"""Rollouts that come into being."""
HEAD = Place("queue")
"""The queue's head, of which each takes its own."""


class Database(Protocol):
    """A place where rows live."""

    dialect: Dialect
    signals: Signals
    durable: bool
    counters: Counter[str]
    """What was counted in commits since the database was opened."""
    durability: str
    """What an acknowledged change survives: `full` a power cut, `process` the end of the process, `none` neither."""

    async def write(self, body: Body[T], *, key: str | None = None, place: Place | None = None) -> T:
        """Run `body` in a transaction; its result comes back after the commit is on disk.

        `key` is the one whose answer it will look for; `place` is where it does all of its work, if that can be said.

        Raises `StoreUnavailable` when the database cannot write just now, and nothing was changed then.
        """
        ...

    async def read(self, body: Body[T], *, brief: bool = False, single: bool = False) -> T:
        """Run `body`, which changes nothing, on one consistent state.

        A `brief` one is a look-up of microseconds, so that handing it to another thread would cost more than it does;
        a `single` one is one statement, which sees one state by itself.
        """
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...
