"""Functions that open and configure connections to a SQLite database and convert file system errors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import apsw

from ...errors import AgentLightningError, StoreUnavailable

Durability = Literal["full", "process"]

BUSY_MILLISECONDS = 5_000
"""Maximum time, in milliseconds, that SQLite waits for a lock on the database file."""
CACHED_STATEMENTS = 256
"""Maximum number of prepared statements that each connection keeps."""
CHECKPOINT_PAGES = 4_000
"""Size of the WAL, in pages, at which a checkpoint runs. 4,000 pages are 16 MB.

With the default of 4 MB, a checkpoint ran every few hundred spans.
"""

# Errors caused by the disk, a lock or a lack of memory rather than by a statement. A transaction that fails with one of
# them can succeed if it is repeated after the cause has been removed.
DISK_ERRORS = (
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.BusyError,
    apsw.NoMemError,
)


def open_writer(path: Path | None, durability: Durability) -> apsw.Connection:
    """Open the connection that writes to a database file, or to a new database in memory if `path` is None."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = _configured(_open(":memory:" if path is None else str(path), flags))
    if path is not None:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except apsw.Error as error:
            connection.close()
            if isinstance(error, apsw.NotADBError):
                raise StoreUnavailable(f"{path} is not a SQLite database") from None
            raise
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        connection.wal_autocheckpoint(CHECKPOINT_PAGES)
    return connection


def open_reader(path: Path) -> apsw.Connection:
    """Open a connection for reading a database that a writer has open."""
    return _configured(_open(str(path), apsw.SQLITE_OPEN_READONLY))


def _open(path: str, flags: int) -> apsw.Connection:
    try:
        return apsw.Connection(path, flags=flags, statementcachesize=CACHED_STATEMENTS)
    except apsw.CantOpenError:
        raise StoreUnavailable(
            f"the database {path} cannot be opened: check that its folder exists and is writable"
        ) from None


def _configured(connection: apsw.Connection) -> apsw.Connection:
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    # Enable SQLite's query planner stability guarantee. Without it, SQLite plans a statement again whenever the value
    # of a parameter might match a partial index, and planning then takes most of the execution time.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    return connection


def open_read_only(path: Path) -> apsw.Connection:
    """Open a connection for reading a database that may be in a folder without write permission."""
    # Without write permission in the folder, SQLite cannot create the index file that it needs to read the WAL. In that
    # case, open the database as immutable. SQLite then ignores the WAL.
    for options in ("mode=ro", "mode=ro&immutable=1"):
        try:
            connection = apsw.Connection(
                f"file:{quote(str(path))}?{options}", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
            )
            connection.execute("SELECT count(*) FROM sqlite_schema")
            return connection
        except (apsw.CantOpenError, apsw.ReadOnlyError):
            continue
        except apsw.NotADBError:
            raise StoreUnavailable(f"{path} is not a SQLite database") from None
    raise StoreUnavailable(f"the database {path} cannot be opened: check that it exists and is readable")


@contextmanager
def errors_as_unavailable(path: Path | None) -> Generator[None]:
    """Convert file system errors, and errors in the database file, to `StoreUnavailable`."""
    try:
        yield
    except AgentLightningError:  # some of these, such as `StoreUnavailable`, are OSErrors too
        raise
    except (OSError, apsw.CorruptError, *DISK_ERRORS) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreUnavailable(
            f"the database {path} cannot be opened for writing ({reason}): check that its folder exists and is "
            "writable, and that the disk has free space"
        ) from None
