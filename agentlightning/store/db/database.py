"""The store's database interface: transactions, rows, write requests, and notifications sent after a commit.

The SQL is written once for all databases. Parameters are written as `?1`, `?2`, …, and `Dialect` contains the few
expressions that differ between databases. The body of a transaction is an async function that receives the transaction
and may await only that transaction's methods. A body may run more than once, because a transaction that was rolled
back may be repeated.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import orjson

from .signals import Notification, Signals, Topic

T = TypeVar("T")
Row = Sequence[Any]
Values = Sequence[Any]
"""The values of a statement's parameters, in order."""


_MAX_PARAMETERS = 1_000
"""Number of values above which SQLite receives them as a JSON array, because it limits the number of parameters."""


@dataclass(frozen=True)
class Dialect:
    """The parts of the SQL that differ between databases."""

    bytes: str
    """The type of a column that contains bytes."""
    text: str
    """The type of a text column whose values are sorted by code point."""
    serial: str
    """The type of a primary key column. The database assigns increasing numbers in the order of insertion."""
    contains: str
    """A case-sensitive test of whether the text column `{column}` contains the literal text `{value}`."""
    bytes_contain: str
    """The same test for a column of UTF-8 bytes."""
    for_update: str
    """The suffix that makes a SELECT lock the rows that it returns."""
    skip_locked: str
    """The suffix that makes a SELECT lock the rows that it returns and skip rows that are already locked."""
    arrays: bool
    """True if the value of a parameter may be a list."""
    transaction_number: str
    """The number of the current transaction. Numbers increase in the order in which transactions start writing.

    The number is a constant if transactions that write never overlap.
    """
    oldest_transaction: str
    """The number of the oldest transaction in progress. All transactions with lower numbers have finished."""

    def any_of(self, values: Values, first: int) -> tuple[str, list[Any]]:
        """Return SQL that tests whether the preceding expression equals one of `values`, and the SQL's parameters.

        The SQL is `= ANY (?first)` or `IN (?first, …)`, where `first` is the number of its first parameter.
        `values` can have any length.
        """
        if self.arrays:
            return f"= ANY (?{first})", [list(values)]
        if len(values) > _MAX_PARAMETERS:
            return f"IN (SELECT value FROM json_each(?{first}))", [_json_array(values)]
        # Repeat the last value until the length is a power of two, to keep the number of distinct statements small.
        size = 1 << max(0, len(values) - 1).bit_length()
        padded = [*values, *[values[-1]] * (size - len(values))]
        return "IN (" + ", ".join(f"?{first + index}" for index in range(size)) + ")", padded


def _json_array(values: Values) -> str:
    # SQLite would cut off a text at a NUL character. No stored id contains one, so such a text equals none of them.
    return orjson.dumps([value for value in values if not (isinstance(value, str) and "\0" in value)]).decode()


INSERT_RESPONSE = "INSERT INTO answers (key, answer, time) VALUES (?1, ?2, ?3)"


@dataclass
class GroupResponses:
    """Stored responses to a group of requests that are committed in one transaction, by idempotency key.

    One statement looks up the keys of all requests, and another stores all new responses.
    """

    known: set[str] = field(default_factory=set[str])
    """Keys that already had a response in the `answers` table when the transaction started."""
    new: dict[str, tuple[bytes, float]] = field(default_factory=dict[str, tuple[bytes, float]])
    """Responses to add to the table, each with the lease time, in seconds, of its request.

    Lease time advances only while the store is open.
    """


@dataclass(eq=False)
class Transaction:
    """A database transaction. Its statements take effect together or not at all."""

    responses: GroupResponses = field(default_factory=GroupResponses)
    notifications: list[Notification] = field(default_factory=list[Notification], init=False)
    counts: dict[str, int] = field(default_factory=dict[str, int], init=False)
    """Counter increments to apply after the commit, by counter name."""

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """Run a statement and return all its rows."""
        raise NotImplementedError

    async def fetch_each(self, sql: str, values: Sequence[Values]) -> Sequence[Sequence[Row]]:
        """Run a statement once for each element of `values`, and return the rows from each run."""
        raise NotImplementedError

    async def claim_rows(self, sql: str, limit: int) -> Sequence[Row]:
        """Lock and return up to `limit` rows that other transactions have not locked.

        `limit` is the only parameter of the statement.
        """
        raise NotImplementedError

    async def execute(self, sql: str, *values: Any) -> None:
        """Run a statement and discard its rows."""
        raise NotImplementedError

    async def execute_many(self, sql: str, rows: Iterable[Values]) -> None:
        """Run a statement once for each element of `rows`, which contains the parameter values."""
        raise NotImplementedError

    async def stored_response(self, key: str, *, recheck: bool = False) -> bytes | None:
        """Return the response stored under an idempotency key, or None. Also increase the time stored with it.

        The increased time prevents `revoke_response` from deleting a response that a repeated request has received. If
        `recheck` is true, query the database again instead of relying on the lookup at the start of the transaction.
        """
        new = self.responses.new
        if key in new:  # the group contains the same request twice
            response, time = new[key]
            new[key] = response, time + 1
            return response
        if not recheck and key not in self.responses.known:
            return None
        if not await self.fetch("SELECT 1 FROM answers WHERE key = ?1", key):
            return None
        found = await self.fetch("UPDATE answers SET time = time + 1 WHERE key = ?1 RETURNING answer", key)
        return found[0][0] if found else None  # another server may have revoked the response in the meantime

    def store_response(self, key: str, response: bytes, time: float) -> None:
        """Store the response to a request in the same commit as the request's changes. Call this last in a body."""
        self.responses.new[key] = response, time

    async def revoke_response(self, key: str, time: float) -> bool:
        """Delete the response stored under `key`, and return True if it has been deleted.

        The response is kept if its stored time is not `time`, which means that a repeated request has received it.
        """
        return bool(await self.fetch("DELETE FROM answers WHERE key = ?1 AND time = ?2 RETURNING 1", key, time))

    def notify(self, topic: Topic, count: int | None = None) -> None:
        """After the commit, wake up to `count` waiters for `topic`, or all of them if `count` is None."""
        self.notifications.append((topic, count))

    def count(self, counter: str, times: int = 1) -> None:
        """Increment a counter by `times` after the commit."""
        self.counts[counter] = self.counts.get(counter, 0) + times


Body = Callable[[Transaction], Awaitable[T]]


class ConflictKey(NamedTuple):
    """The part of the store that a transaction body changes, and the id of the rollout if it changes only one.

    Two bodies may run concurrently if they change the same part, unless they have a rollout id or an idempotency key in
    common.
    """

    part: Literal["new", "queue", "attempts"]
    """The part: new rollouts (`new`), the head of the queue (`queue`), or the attempts of one rollout (`attempts`).

    `attempts` includes the attempts' spans and the resulting changes to the rollout.
    """
    id: str | None = None


NEW_ROLLOUTS = ConflictKey("new")
QUEUE_HEAD = ConflictKey("queue")
"""The head of the queue. Claims never conflict with each other, because each claim takes different rows."""


class Database:
    """The database of one store."""

    dialect: Dialect
    durable = True
    durability = "full"
    """The failures that acknowledged changes survive.

    `full`: power failures and crashes of the process. `process`: only crashes of the process. `none`: neither.
    """

    def __init__(self) -> None:
        self.signals = Signals()
        self.counters = Counter[str]()
        """Counts of committed events since the database was opened."""
        self._closed = threading.Event()

    def write(self, body: Body[T], *, key: str | None = None, conflict_key: ConflictKey | None = None) -> Awaitable[T]:
        """Run `body` in a transaction. Return an awaitable that provides the body's result after the commit.

        `key` is the idempotency key that the body looks up. `conflict_key` identifies the part of the store that the
        body changes, if it changes only one part.

        Raises `StoreUnavailable` if the changes cannot be written. In that case, nothing has changed, unless the
        connection to the database broke during the commit. Raises `StoreBusy` if too many bodies are waiting to run.
        """
        raise NotImplementedError

    async def read(self, body: Body[T], *, short: bool = False) -> T:
        """Run a read-only body on a consistent snapshot, and return its result.

        Set `short` if the body takes only microseconds. SQLite then runs it in the calling thread, because passing it
        to another thread would take longer.
        """
        raise NotImplementedError

    async def fetch(self, sql: str, *values: Any, short: bool = False) -> Sequence[Row]:
        """Run a single read-only statement and return all its rows."""
        return await self.read(lambda transaction: transaction.fetch(sql, *values), short=short)

    def run(self, body: Body[T]) -> T:
        """Run `body` in its own transaction and return its result. Call this only before the database is in use."""
        raise NotImplementedError

    def check_files(self) -> None:
        """Raise `StoreUnavailable` if the database's files have been deleted or replaced since they were opened."""

    async def close(self) -> None:
        """Close the database's files and connections."""
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """Close the database like `close`, but without requiring an event loop."""
        if not self._closed.is_set():
            self._closed.set()
            self.signals.close()
            self._close_resources()

    def _close_resources(self) -> None:
        raise NotImplementedError


CLOSED = "the store is closed"
MAX_PENDING_WRITES = 20_000
"""Maximum number of transaction bodies that may be waiting to run. If there are more, a write raises `StoreBusy`."""


@dataclass(eq=False)
class WriteRequest:
    """A transaction body and its result."""

    body: Body[Any]
    future: asyncio.Future[Any]
    """The future that the caller awaits to get the result. It belongs to the caller's event loop."""
    key: str | None = None
    """The idempotency key that the body looks up."""
    conflict_key: ConflictKey | None = None
    """The part of the store that the body changes, if it changes only one part."""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Counter increments to apply after the commit."""
    result: Any = None
    error: BaseException | None = None


def deliver_results(group: Sequence[WriteRequest], counters: Counter[str]) -> None:
    """Add the counts from a finished group of requests to `counters`, and resolve the callers' futures.

    Called in the thread that ran the bodies. Each event loop gets only one `call_soon_threadsafe` call per group.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[WriteRequest]] = {}
    for request in group:
        if request.counts and request.error is None:
            counters.update(request.counts)
        by_loop.setdefault(request.future.get_loop(), []).append(request)
    for loop, requests in by_loop.items():
        with suppress(RuntimeError):  # raised if the loop is closed
            loop.call_soon_threadsafe(_resolve, requests)


def _resolve(requests: Sequence[WriteRequest]) -> None:
    """Resolve the callers' futures. Called in the event loop that the futures belong to."""
    for request in requests:
        if request.future.done():  # the caller was cancelled
            continue
        if request.error is not None:
            request.future.set_exception(request.error)
        else:
            request.future.set_result(request.result)
