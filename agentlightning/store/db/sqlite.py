"""SQLite: one writer thread, which commits requests in groups, and separate connections for reading.

While a group of requests is being committed, new requests are queued. They form the next group, so requests are grouped
without a timer. With full durability, a commit is on disk (`synchronous=FULL`) before the callers get their results.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

import apsw
import orjson

from ...errors import AgentLightningError, Forbidden, StoreBusy, StoreUnavailable
from ...private_files import create_private_file, warn_if_readable_by_others
from .connections import DISK_ERRORS, Durability, errors_as_unavailable, open_read_only, open_reader, open_writer
from .database import (
    CLOSED,
    INSERT_RESPONSE,
    MAX_PENDING_WRITES,
    Body,
    ConflictKey,
    Database,
    Dialect,
    GroupResponses,
    Row,
    Transaction,
    Values,
    WriteRequest,
    deliver_results,
)
from .file_lock import LOCK_SUFFIX, FileLock, OpenFiles, check_not_open_elsewhere
from .signals import Notification

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_GROUP = 256
"""Maximum number of transaction bodies per commit. Larger groups would add latency without increasing throughput."""
READERS = 2
"""Maximum number of threads for reads that are not short (see `Database.read`)."""

_STORED_KEYS = "SELECT key FROM answers WHERE key IN (SELECT value FROM json_each(?1))"

DIALECT = Dialect(
    bytes="BLOB",
    text="TEXT",
    serial="INTEGER PRIMARY KEY",
    contains="instr({column}, {value}) > 0",
    bytes_contain="instr({column}, CAST({value} AS BLOB)) > 0",
    for_update="",
    skip_locked="",
    arrays=False,
    transaction_number="0",
    oldest_transaction="0",
)


class SqliteDatabase(Database):
    """A SQLite database in a file, or in memory if the path is None.

    If `exclusive` is true, the constructor locks the database. It raises `StoreInUse` if another store holds the lock.
    """

    dialect = DIALECT

    def __init__(self, path: str | Path | None, *, durability: Durability = "full", exclusive: bool = True) -> None:
        super().__init__()
        self.durable = path is not None
        self.durability = "none" if path is None else durability
        self.path = None if path is None else Path(path).absolute()
        self._lock: FileLock | None = None
        self._files: OpenFiles | None = None
        try:
            with errors_as_unavailable(self.path):
                self._connection = self._open(durability, exclusive)
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise
        self._requests: SimpleQueue[WriteRequest | None] = SimpleQueue()
        self._readers = None if self.path is None else _ReaderPool(self.path, open_reader)
        self._is_failing = False
        """True if the last write failed. Of several consecutive failures, only the first is logged."""
        self._writer = threading.Thread(target=self._write_loop, name="agl-write", daemon=True)
        self._writer.start()

    def _open(self, durability: Durability, exclusive: bool) -> apsw.Connection:
        if self.path is None:
            return open_writer(None, durability)
        warn_if_readable_by_others(Path(f"{self.path}{suffix}") for suffix in ("", "-wal", "-shm", LOCK_SUFFIX))
        create_private_file(Path(os.path.realpath(self.path)))  # SQLite gives its other files the same permissions
        if exclusive:
            self._lock = FileLock(self.path)
        else:
            check_not_open_elsewhere(self.path)
        connection = open_writer(self.path, durability)
        connection.execute("BEGIN IMMEDIATE; COMMIT")  # creates the WAL, and fails if the database cannot be written
        self._files = OpenFiles(self.path)
        return connection

    def check_files(self) -> None:
        if self._files is not None:
            self._files.check()

    def write(self, body: Body[T], *, key: str | None = None, conflict_key: ConflictKey | None = None) -> Awaitable[T]:
        if self._closed.is_set():
            raise StoreUnavailable(CLOSED)
        if self._requests.qsize() > MAX_PENDING_WRITES:
            raise StoreBusy()
        request = WriteRequest(body, asyncio.get_running_loop().create_future(), key)
        self._requests.put(request)
        return request.future

    async def read(self, body: Body[T], *, short: bool = False) -> T:
        if self._readers is None:  # an in-memory database has only one connection
            return await self.write(body)
        if self._closed.is_set():
            raise StoreUnavailable(CLOSED)
        return await self._readers.read(body, short)

    async def fetch(self, sql: str, *values: Any, short: bool = False) -> Sequence[Row]:
        if self._readers is None:
            return await self.write(lambda transaction: transaction.fetch(sql, *values))
        if self._closed.is_set():
            raise StoreUnavailable(CLOSED)
        return await self._readers.fetch(sql, values, short)

    def run(self, body: Body[T]) -> T:
        with errors_as_unavailable(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = _run_to_completion(body(_SqliteTransaction(self._connection)))
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return result

    def _close_resources(self) -> None:
        self._requests.put(None)
        self._writer.join()
        if self._readers is not None:
            self._readers.close()
        self._connection.close()
        if self._lock is not None:
            self._lock.release()

    # The writer thread

    def _write_loop(self) -> None:
        while (group := self._next_group()) is not None:
            for topic, count in self._commit(group):
                self.signals.notify(topic, count)
            deliver_results(group, self.counters)

    def _next_group(self) -> list[WriteRequest] | None:
        first = self._requests.get()
        if first is None:
            return None
        group = [first]
        with suppress(Empty):
            while len(group) < MAX_GROUP:
                request = self._requests.get_nowait()
                if request is None:
                    self._requests.put(None)  # stop after this group
                    break
                group.append(request)
        return group

    def _commit(self, group: list[WriteRequest]) -> list[Notification]:
        changes = self._connection.total_changes()
        try:
            self.check_files()
            notifications = self._run_group(group, savepoints=False)
            if notifications is None:
                notifications = self._run_group(group, savepoints=True)
            self._connection.execute("COMMIT")
        except (apsw.Error, StoreUnavailable) as error:
            self._fail_group(group, error)
            return []
        if self._is_failing and self._connection.total_changes() > changes:  # a commit without changes writes nothing
            self._is_failing = False
            logger.warning("The database can be written again.")
        return notifications or []

    def _run_group(self, group: list[WriteRequest], *, savepoints: bool) -> list[Notification] | None:
        """Run the bodies of the requests in one transaction, which the caller commits. Return their notifications.

        With savepoints, only the changes of a body that fails are undone. Without savepoints, if a body fails after
        changing anything, roll back the whole transaction and return None. Savepoints are used only in a second try,
        because each savepoint makes SQLite copy every page that is changed after it.
        """
        self._connection.execute("BEGIN IMMEDIATE")
        responses = self._load_responses(group)
        notifications: list[Notification] = []
        for request in group:
            transaction = _SqliteTransaction(self._connection, responses)
            changes = self._connection.total_changes()
            if savepoints:
                self._connection.execute("SAVEPOINT body")
            if self._run_request(request, transaction):
                notifications += transaction.notifications
            elif savepoints:
                self._connection.execute("ROLLBACK TO body")
            elif self._connection.total_changes() != changes:
                self._connection.execute("ROLLBACK")
                return None
            if savepoints:
                self._connection.execute("RELEASE body")
        self._connection.executemany(INSERT_RESPONSE, ((key, *each) for key, each in responses.new.items()))
        return notifications

    def _load_responses(self, group: list[WriteRequest]) -> GroupResponses:
        keys = [request.key for request in group if request.key is not None]
        if not keys:
            return GroupResponses()
        # Pass all keys in one parameter, so that the same prepared statement is used for any number of keys.
        found = self._connection.execute(_STORED_KEYS, [orjson.dumps(keys).decode()])
        return GroupResponses({row[0] for row in found})

    def _run_request(self, request: WriteRequest, transaction: _SqliteTransaction) -> bool:
        """Run the body of one request, unless the request was cancelled. Return False if the body failed."""
        request.counts = transaction.counts  # replaces the counts of an earlier run
        if request.future.cancelled():
            return True
        try:
            request.result, request.error = _run_to_completion(request.body(transaction)), None
        except DISK_ERRORS:
            raise
        except Exception as error:
            if not isinstance(error, AgentLightningError):
                logger.exception("A transaction failed")
            request.error = error
            return False
        return True

    def _fail_group(self, group: list[WriteRequest], error: Exception) -> None:
        if not self._is_failing:
            logger.error("Cannot write to the database (%s); writes will fail until it recovers", error)
        self._is_failing = True
        if self._connection.in_transaction:
            with suppress(apsw.Error):
                self._connection.execute("ROLLBACK")
        for request in group:
            request.error = StoreUnavailable(f"cannot write to the store's database: {error}; try again later")


class ReadOnlyDatabase(Database):
    """A SQLite database file that is opened only for reading, even if a store has locked it.

    Every write raises `Forbidden`.
    """

    dialect = DIALECT

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._readers = _ReaderPool(path, open_read_only)

    def write(self, body: Body[T], *, key: str | None = None, conflict_key: ConflictKey | None = None) -> Awaitable[T]:
        raise Forbidden("this store is read-only; serve the database with `agl store` to change it")

    async def read(self, body: Body[T], *, short: bool = False) -> T:
        return await self._readers.read(body, short)

    def run(self, body: Body[T]) -> T:
        return self._readers.run(body)

    def _close_resources(self) -> None:
        self._readers.close()


class _ReaderPool:
    """Connections for reading: one for each thread in a pool, and one for each thread that runs short reads itself."""

    def __init__(self, path: Path, connect: Callable[[Path], apsw.Connection]) -> None:
        self._path = path
        self._connect = connect
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="agl-read")

    async def read(self, body: Body[T], short: bool) -> T:
        """Run `body` in the calling thread if it is short, or otherwise in a thread of the pool."""
        if short:
            return self.run(body)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.run, body)

    async def fetch(self, sql: str, values: Values, short: bool) -> Sequence[Row]:
        """Run a single statement and return its rows. A single statement does not need an explicit transaction."""
        if short:
            return self._fetch(sql, values)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, sql, values)

    def _fetch(self, sql: str, values: Values) -> Sequence[Row]:
        try:
            return cast("list[Row]", self._connection().execute(sql, values).fetchall())
        except DISK_ERRORS as error:
            raise _cannot_read(error) from None

    def run(self, body: Body[T]) -> T:
        try:
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                return _run_to_completion(body(_SqliteTransaction(connection)))
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")
        except DISK_ERRORS as error:
            raise _cannot_read(error) from None

    def close(self) -> None:
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()

    def _connection(self) -> apsw.Connection:
        """Return the calling thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect(self._path)
            self._connections.append(connection)
        return connection


def _cannot_read(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"cannot read the store's database: {error}; try again later")


class _SqliteTransaction(Transaction):
    """Runs statements synchronously. The methods are `async` only because those of `Transaction` are."""

    def __init__(self, connection: apsw.Connection, responses: GroupResponses | None = None) -> None:
        super().__init__(responses or GroupResponses())
        self._connection = connection

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        return cast("list[Row]", self._connection.execute(sql, values).fetchall())

    async def fetch_each(self, sql: str, values: Sequence[Values]) -> Sequence[Sequence[Row]]:
        return [cast("list[Row]", self._connection.execute(sql, each).fetchall()) for each in values]

    async def claim_rows(self, sql: str, limit: int) -> Sequence[Row]:
        return cast("list[Row]", self._connection.execute(sql, [limit]).fetchall())

    async def execute(self, sql: str, *values: Any) -> None:
        self._connection.execute(sql, values)

    async def execute_many(self, sql: str, rows: Iterable[Values]) -> None:
        self._connection.executemany(sql, rows)


def _run_to_completion(body: Any) -> Any:
    """Run a coroutine that never suspends, and return its result."""
    try:
        body.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a transaction body may await only the methods of its transaction")
