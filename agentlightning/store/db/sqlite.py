"""SQLite: one writer thread that commits in groups, read connections beside it.

While one commit runs, the next group gathers by itself; no timer is involved. In full durability a commit is on disk
(`synchronous=FULL`) before any caller of its group hears of it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar, cast

import apsw

from ...errors import AgentLightningError, StoreInUse, StoreUnavailable
from .database import KEEP_ANSWER, Body, Dialect, Place, Row, Transaction
from .signals import Signals
from .write_requests import Job, add_up, deliver

logger = logging.getLogger(__name__)

T = TypeVar("T")
Durability = Literal["full", "process"]
_Answer = tuple[bytes, float]
"""The answer, and when it was given."""

MAX_GROUP = 256
"""Bodies in one commit: beyond this, groups gain nothing and only add latency."""
READERS = 2
BUSY_MILLISECONDS = 5_000
CACHED_STATEMENTS = 256
CHECKPOINT_PAGES = 4_000
"""16 MB of log between checkpoints; the default of 4 MB made a checkpoint every few hundred spans."""

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

# The disk, not the statement, is at fault: the whole group is rolled back, and may work again when the disk does.
_DISK_ERRORS = (
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.BusyError,
    apsw.NoMemError,
)


class SqliteDatabase:
    """A database in one file, or with path None in memory."""

    dialect = DIALECT

    def __init__(self, path: str | Path | None, *, durability: Durability = "full", owner: bool = True) -> None:
        self.signals = Signals()
        self.counters = Counter[str]()
        self.durable = path is not None
        self.durability = "none" if path is None else durability
        self.path = None if path is None else Path(path).absolute()
        self._owner = _own(self.path) if self.path and owner else None
        self._connection = _connect(self.path, durability)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._closed = threading.Event()
        self._readers = None if self.path is None else ThreadPoolExecutor(READERS, thread_name_prefix="agl-read")
        self._reading = threading.local()
        self._reading_connections: list[apsw.Connection] = []
        self._writer = threading.Thread(target=self._work, name="agl-write", daemon=True)
        self._writer.start()

    async def write(self, body: Body[T], *, key: str | None = None, place: Place | None = None) -> T:
        if self._closed.is_set():
            raise StoreUnavailable("the store is closed")
        job = Job.of(body, self._jobs.qsize(), key)
        self._jobs.put(job)
        return await job.future

    async def read(self, body: Body[T], *, brief: bool = False, single: bool = False) -> T:
        if self._readers is None:  # what is in memory has one connection
            return await self.write(body)
        if self._closed.is_set():
            raise StoreUnavailable("the store is closed")
        if brief:
            return self._read(body)
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, body)

    def run(self, body: Body[T]) -> T:
        """`body` as a transaction of its own, from the thread that opens the database before anyone uses it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = _drive(body(_SqliteTransaction(self._connection)))
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        return result

    async def close(self) -> None:
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """`close`, for those without an event loop."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.signals.close()
        self._jobs.put(None)
        self._writer.join()
        if self._readers is not None:
            self._readers.shutdown()
        for connection in [*self._reading_connections, self._connection]:
            connection.close()
        if self._owner is not None:
            self._owner.close()

    # The writer thread

    def _work(self) -> None:
        while (group := self._next_group()) is not None:
            announced = self._commit(group)
            for topic, count in announced:
                self.signals.wake(topic, count)
            add_up(group, self.counters)
            deliver(group)

    def _next_group(self) -> list[Job] | None:
        first = self._jobs.get()
        if first is None:
            return None
        group = [first]
        with suppress(Empty):
            while len(group) < MAX_GROUP:
                job = self._jobs.get_nowait()
                if job is None:
                    self._jobs.put(None)  # after this group, stop
                    break
                group.append(job)
        return group

    def _commit(self, group: list[Job]) -> list[tuple[str, int | None]]:
        try:
            announced = self._run_all(group)
            if announced is None:
                announced = self._run_each_in_a_savepoint(group)
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            self._give_up(group, error)
            return []
        return announced

    def _run_all(self, group: list[Job]) -> list[tuple[str, int | None]] | None:
        """Run the bodies in one transaction; None, with nothing done, when one failed that had changed something.

        Savepoints are left out, because each makes SQLite keep a copy of every page that is changed after it.
        """
        self._connection.execute("BEGIN IMMEDIATE")
        answers = self._answers_of(group)
        announced: list[tuple[str, int | None]] = []
        for job in group:
            transaction = _SqliteTransaction(self._connection, answers)
            before = self._connection.total_changes()
            if self._run(job, transaction):
                announced += transaction.announced
                answers.new |= transaction.kept
            elif self._connection.total_changes() != before:
                self._connection.execute("ROLLBACK")
                return None
        self._keep(answers)
        return announced

    def _run_each_in_a_savepoint(self, group: list[Job]) -> list[tuple[str, int | None]]:
        """Run the bodies in one transaction, so that each one's failure is its own."""
        self._connection.execute("BEGIN IMMEDIATE")
        answers = self._answers_of(group)
        announced: list[tuple[str, int | None]] = []
        for job in group:
            transaction = _SqliteTransaction(self._connection, answers)
            self._connection.execute("SAVEPOINT body")
            if self._run(job, transaction):
                announced += transaction.announced
                answers.new |= transaction.kept
            else:
                self._connection.execute("ROLLBACK TO body")
            self._connection.execute("RELEASE body")
        self._keep(answers)
        return announced

    def _answers_of(self, group: list[Job]) -> _Answers:
        keys = [job.key for job in group if job.key is not None]
        if not keys:
            return _Answers(set())
        condition, values = DIALECT.any_of(keys, 1)
        found = self._connection.execute(f"SELECT key FROM answers WHERE key {condition}", values)
        return _Answers({row[0] for row in found})

    def _keep(self, answers: _Answers) -> None:
        self._connection.executemany(KEEP_ANSWER, ((key, *answer) for key, answer in answers.new.items()))

    def _run(self, job: Job, transaction: _SqliteTransaction) -> bool:
        """Run one body; whether it succeeded."""
        job.counted = transaction.counted  # anew, where this is the second time
        if job.future.cancelled():
            return True
        try:
            job.result, job.error = _drive(job.body(transaction)), None
        except _DISK_ERRORS:
            raise
        except Exception as error:
            if not isinstance(error, AgentLightningError):
                logger.exception("A transaction failed")
            job.error = error
            return False
        return True

    def _give_up(self, group: list[Job], error: apsw.Error) -> None:
        logger.error("The database cannot write: %s", error)
        if self._connection.in_transaction:
            with suppress(apsw.Error):
                self._connection.execute("ROLLBACK")
        for job in group:
            job.error = StoreUnavailable(f"the store's database cannot write just now: {error}")

    # Reading: in the caller's thread what is brief, else in a thread of the pool, each with its own connection

    def _read(self, body: Body[T]) -> T:
        connection = getattr(self._reading, "connection", None)
        if connection is None:
            connection = self._reading.connection = _connect(self.path, "full", reader=True)
            self._reading_connections.append(connection)
        connection.execute("BEGIN")
        try:
            return _drive(body(_SqliteTransaction(connection)))
        finally:
            connection.execute("COMMIT")


class _SqliteTransaction(Transaction):
    """Statements on a connection, at once; `async` only because other databases need it."""

    def __init__(self, connection: apsw.Connection, answers: _Answers | None = None) -> None:
        self._connection = connection
        self._answers = answers or _Answers(set())
        self.kept: dict[str, _Answer] = {}
        self.announced: list[tuple[str, int | None]] = []
        self.counted: dict[str, int] = {}

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        return cast("list[Row]", self._connection.execute(sql, values).fetchall())

    async def execute(self, sql: str, *values: Any) -> None:
        self._connection.execute(sql, values)

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)

    async def answer_to(self, key: str, *, anew: bool = False) -> bytes | None:
        if key in self._answers.new:
            return self._answers.given_again(key)
        return await super().answer_to(key) if anew or key in self._answers.known else None

    async def keep_answer(self, key: str, answer: bytes, time: float) -> None:
        self.kept[key] = (answer, time)

    async def take_back_answer(self, key: str, time: float) -> bool:
        taken_back = await super().take_back_answer(key, time)
        if taken_back:
            self._answers.known.discard(key)
        return taken_back

    def announce(self, topic: str, count: int | None = None) -> None:
        self.announced.append((topic, count))


class _Answers:
    """Which questions of a group were answered before, and what is answered to them now: each is one statement."""

    __slots__ = ("known", "new")

    def __init__(self, known: set[str]) -> None:
        self.known = known
        self.new: dict[str, _Answer] = {}

    def given_again(self, key: str) -> bytes:
        """The answer to a question that is in its group twice; as in the table, its time tells that it was."""
        answer, time = self.new[key]
        self.new[key] = (answer, time + 1)
        return answer


def _drive(body: Any) -> Any:
    """Run to its end a coroutine that never really waits."""
    try:
        cast("Coroutine[Any, Any, Any]", body).send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a transaction's body may await nothing but its transaction")


def _connect(path: Path | None, durability: Durability, *, reader: bool = False) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY if reader else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    try:
        connection = apsw.Connection(
            ":memory:" if path is None else str(path), flags=flags, statementcachesize=CACHED_STATEMENTS
        )
    except apsw.CantOpenError:
        raise StoreUnavailable(f"the database {path} cannot be opened: is the folder there, and writable?") from None
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    # Else SQLite plans a statement anew whenever a value might matter to a partial index: most of a query's time.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    if path is not None and not reader:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except apsw.NotADBError:
            connection.close()
            raise StoreUnavailable(f"{path} is not a SQLite database") from None
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        connection.wal_autocheckpoint(CHECKPOINT_PAGES)
    return connection


def _own(path: Path) -> apsw.Connection:
    """Hold a lock beside the database for as long as the process lives, however it ends."""
    beside = path.with_name(path.name + "-owner")
    try:
        owner = apsw.Connection(str(beside))
    except apsw.CantOpenError:
        raise StoreUnavailable(f"the database {path} cannot be opened: is the folder there, and writable?") from None
    try:
        owner.execute("PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE").fetchall()  # a row unread holds up the rest
    except apsw.BusyError:
        owner.close()
        raise StoreInUse(
            f"another store has {path} open; use that one (LightningStoreClient), or another --db"
        ) from None
    return owner
