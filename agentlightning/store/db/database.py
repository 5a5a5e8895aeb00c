"""Database interface of the store: transactions, rows, and notifications after a commit.

The SQL is written once for all databases. Parameters are `?1`, `?2`, …; `Dialect` holds the few expressions in which
databases differ. The body of a transaction is an `async def` that awaits nothing but its transaction, and it may run
more than once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from .signals import Notification, Signals, Topic

T = TypeVar("T")
Row = Sequence[Any]
Values = Sequence[Any]
"""The parameters of one statement."""


@dataclass(frozen=True)
class Dialect:
    """The SQL expressions in which two databases differ."""

    bytes: str
    """The type of a column of bytes."""
    text: str
    """The type of a column of text that sorts by code points."""
    serial: str
    """The type of a primary key that numbers rows in insertion order."""
    contains: str
    """A case-sensitive literal search for `{value}` in the text column `{column}`."""
    bytes_contain: str
    """The same search in a column of UTF-8 bytes."""
    for_update: str
    """The end of a SELECT that locks its rows."""
    skip_locked: str
    """The end of a SELECT that locks its rows and skips locked ones."""
    arrays: bool
    """A parameter may be a list of values."""
    transaction_number: str
    """A number that increases in the order in which transactions begin to write; a constant if they never overlap."""
    oldest_transaction: str
    """The number of the oldest transaction in progress; all lower numbers are finished."""

    def any_of(self, values: Values, first: int) -> tuple[str, list[Any]]:
        """Return `= ANY (?first)` or `IN (?first, …)`, and its parameters."""
        if self.arrays:
            return f"= ANY (?{first})", [list(values)]
        # Padded to a power of two, to keep the number of distinct statements small.
        size = 1 << max(0, len(values) - 1).bit_length()
        padded = [*values, *[values[-1]] * (size - len(values))]
        return "IN (" + ", ".join(f"?{first + index}" for index in range(size)) + ")", padded


INSERT_RESPONSE = "INSERT INTO answers (key, answer, time) VALUES (?1, ?2, ?3)"


class Transaction(Protocol):
    """Statements that take effect together or not at all."""

    counts: dict[str, int]
    """Counter increments of the running body."""

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """Return all rows of a statement."""
        ...

    async def fetch_each(self, sql: str, values: Sequence[Values]) -> Sequence[Sequence[Row]]:
        """Return all rows of a statement for each of `values`."""
        return [await self.fetch(sql, *each) for each in values]

    async def claim_rows(self, sql: str, limit: int) -> Sequence[Row]:
        """Lock and return up to `limit` rows that no other transaction has claimed; the limit is the only value."""
        return await self.fetch(sql, limit)

    async def execute(self, sql: str, *values: Any) -> None:
        """Run a statement and discard its rows."""
        ...

    async def execute_many(self, sql: str, rows: Iterable[Values]) -> None:
        """Run the same statement once for each of `rows`."""
        ...

    async def stored_response(self, key: str, *, recheck: bool = False) -> bytes | None:
        """Return the response stored under an idempotency key, and protect it from `revoke_response`.

        `recheck` reads the database again instead of relying on the lookup made for the whole group.
        """
        if not await self.fetch("SELECT 1 FROM answers WHERE key = ?1", key):
            return None
        found = await self.fetch("UPDATE answers SET time = time + 1 WHERE key = ?1 RETURNING answer", key)
        return found[0][0] if found else None  # another server may have revoked it in between

    async def store_response(self, key: str, response: bytes, time: float) -> None:
        """Store the response of a request in the same commit as its changes."""
        await self.execute(INSERT_RESPONSE, key, response, time)

    async def revoke_response(self, key: str, time: float) -> bool:
        """Delete the response stored at `time`; False when it has been returned to a retry since."""
        return bool(await self.fetch("DELETE FROM answers WHERE key = ?1 AND time = ?2 RETURNING 1", key, time))

    def notify(self, topic: Topic, count: int | None = None) -> None:
        """Wake `count` waiters of `topic`, or all of them, after the commit."""
        ...

    def count(self, counter: str, times: int = 1) -> None:
        """Increment a counter after the commit."""
        self.counts[counter] = self.counts.get(counter, 0) + times


@dataclass
class RecordingTransaction(Transaction):
    """A transaction that collects its notifications and counts until the commit."""

    notifications: list[Notification] = field(default_factory=list[Notification], init=False)
    counts: dict[str, int] = field(default_factory=dict[str, int], init=False)

    def notify(self, topic: Topic, count: int | None = None) -> None:
        self.notifications.append((topic, count))


Body = Callable[[Transaction], Awaitable[T]]


class ConflictKey(NamedTuple):
    """The part of the store that a body changes: bodies of one part that name different ids never conflict."""

    part: Literal["new", "queue", "attempts"]
    """`attempts` are those of one rollout, with their spans and the resulting changes of the rollout."""
    id: str | None = None


NEW_ROLLOUTS = ConflictKey("new")
QUEUE_HEAD = ConflictKey("queue")
"""The head of the queue, where every claim takes rows of its own."""


class Database(Protocol):
    """Storage for the rows of one store."""

    dialect: Dialect
    signals: Signals
    durable: bool
    counters: Counter[str]
    """Counts of committed events since the database was opened."""
    durability: str
    """Failures that acknowledged changes survive: `full` a power cut, `process` a process exit, `none` neither."""

    def write(self, body: Body[T], *, key: str | None = None, conflict_key: ConflictKey | None = None) -> Awaitable[T]:
        """Run `body` in a transaction; its result is available once the commit is on disk.

        `key` is the idempotency key that the body looks up. `conflict_key` names the only part that it changes, if
        there is one.

        Raises `StoreUnavailable` when the database cannot write; nothing has changed then.
        """
        ...

    async def read(self, body: Body[T], *, short: bool = False, single_statement: bool = False) -> T:
        """Run a body that changes nothing on one consistent snapshot.

        A `short` body takes microseconds, less than passing it to another thread. A `single_statement` body needs no
        transaction for a consistent snapshot.
        """
        ...

    async def close(self) -> None:
        """Close files and connections."""
        ...
