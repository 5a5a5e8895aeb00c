"""Online backup of a SQLite database. The result is either a complete copy on disk or no file."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import apsw

from ...errors import InvalidInput, StoreUnavailable


def backup(source: Path, target: Path) -> int:
    """Copy everything committed before the call and return the size of the copy in bytes."""
    if target.exists():
        raise InvalidInput(f"{target} already exists; a backup never overwrites a file, choose another", field="file")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        _copy(source, partial)
    except apsw.Error as error:
        partial.unlink(missing_ok=True)
        raise StoreUnavailable(f"{source} could not be copied to {target}: {error}") from None
    _sync(partial)
    partial.rename(target)
    _sync(target.parent)
    return target.stat().st_size


def open_alongside(source: Path) -> apsw.Connection:
    """Open a connection that makes no changes, while the store may have the database open.

    Raises `StoreUnavailable` if there is no such file.
    """
    if not source.exists():
        raise StoreUnavailable(f"there is no database {source.absolute()}")
    # Open for writing, because SQLite must create the WAL index if no process has the database open.
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"file:{quote(str(source.absolute()))}", flags=flags)
    connection.set_busy_timeout(5_000)
    return connection


def _copy(source: Path, target: Path) -> None:
    original, copy = open_alongside(source), apsw.Connection(str(target))
    try:
        with copy.backup("main", original, "main") as process:
            process.step(-1)  # copy all pages in one step, for a consistent state; concurrent writes go to the WAL
        copy.execute("PRAGMA journal_mode = DELETE")
    finally:
        copy.close()
        original.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
