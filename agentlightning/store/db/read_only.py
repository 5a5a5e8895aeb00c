"""A finished run in its SQLite file, to be looked at and never changed.

It is opened without the lock that stores hold, so a run that still goes on can be looked at too.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import apsw

from ...errors import Forbidden, StoreUnavailable
from ..sql import SqlStore
from ..sql.schema import STEPS
from .clock import Clock
from .database import Body, Place, Row, Transaction
from .signals import Signals
from .sqlite import DIALECT

T = TypeVar("T")

READERS = 2


class FinishedRun(SqlStore):
    """The store of a run that is over: every query answers, nothing changes it."""

    read_only = True

    def __init__(self, path: str | Path) -> None:
        super().__init__(_ReadOnlyDatabase(Path(path).absolute()), Clock())


class _ReadOnlyDatabase:
    """A database file that is only read."""

    dialect = DIALECT
    durable = True
    durability = "full"

    def __init__(self, path: Path) -> None:
        self.signals = Signals()
        self.counters = Counter[str]()
        self._path = path
        self._connections: list[apsw.Connection] = []
        self._reading = threading.local()
        _check_version(self._connect())
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="agl-read")

    async def write(self, body: Body[T], *, key: str | None = None, place: Place | None = None) -> T:
        raise _refused()

    async def read(self, body: Body[T], *, brief: bool = False, single: bool = False) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, body)

    async def close(self) -> None:
        self.signals.close()
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._connections:
            connection.close()

    def _read(self, body: Body[T]) -> T:
        connection = getattr(self._reading, "connection", None) or self._connect()
        self._reading.connection = connection
        connection.execute("BEGIN")
        try:
            cast("Coroutine[Any, Any, T]", body(_Reading(connection))).send(None)
        except StopIteration as end:
            return end.value
        finally:
            connection.execute("COMMIT")
        raise RuntimeError("a transaction's body may await nothing but its transaction")

    def _connect(self) -> apsw.Connection:
        # In a folder that cannot be written to, the log's index cannot be made; the file alone is read then.
        for options in ("mode=ro", "mode=ro&immutable=1"):
            try:
                connection = apsw.Connection(
                    f"file:{quote(str(self._path))}?{options}", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
                )
                connection.execute("SELECT count(*) FROM sqlite_schema")
                self._connections.append(connection)
                return connection
            except (apsw.CantOpenError, apsw.ReadOnlyError):
                continue
            except apsw.NotADBError:
                raise StoreUnavailable(f"{self._path} is not the database of a store") from None
        raise StoreUnavailable(f"the database {self._path} cannot be opened: is it there, and readable?")


class _Reading(Transaction):
    """Statements that change nothing."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.counted = {}

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        return cast("list[Row]", self._connection.execute(sql, values).fetchall())

    async def execute(self, sql: str, *values: Any) -> None:
        raise _refused()

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        raise _refused()

    def announce(self, topic: str, count: int | None = None) -> None:
        raise _refused()


def _refused() -> Forbidden:
    return Forbidden("this run was opened to be looked at; serve it with agl store to change it")


def _check_version(connection: apsw.Connection) -> None:
    try:
        found = cast("list[Row]", connection.execute("SELECT version FROM schema_version").fetchall())
    except apsw.SQLError:
        raise StoreUnavailable("this is not the database of a store") from None
    if found != [(len(STEPS),)]:
        raise StoreUnavailable("another release has written this database; open it once with agl store to bring it up")
