"""A copy of a SQLite database while its store goes on: whole and on disk, or not there at all."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import apsw

from ...errors import InvalidInput, StoreUnavailable


def backup(source: Path, target: Path) -> int:
    """Copy everything that was committed before the call; the size of the copy in bytes."""
    if target.exists():
        raise InvalidInput(f"{target} is there already; a backup never overwrites", field="file")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        _copy(source, partial)
    except apsw.Error as error:
        partial.unlink(missing_ok=True)
        raise StoreUnavailable(f"{source} could not be copied to {target}: {error}") from None
    _to_disk(partial)
    partial.rename(target)
    _to_disk(target.parent)
    return target.stat().st_size


def reading(source: Path) -> apsw.Connection:
    """A connection that changes nothing, beside the store's own. Raises `StoreUnavailable`."""
    if not source.exists():
        raise StoreUnavailable(f"there is no database {source.absolute()}")
    # Opened for writing all the same: where nobody has it open, the index of its log must be made first.
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"file:{quote(str(source.absolute()))}", flags=flags)
    connection.set_busy_timeout(5_000)
    return connection


def _copy(source: Path, target: Path) -> None:
    there, here = reading(source), apsw.Connection(str(target))
    try:
        with here.backup("main", there, "main") as copying:
            copying.step(-1)  # all at once, so of one moment; what the store writes meanwhile goes to its log
        here.execute("PRAGMA journal_mode = DELETE")
    finally:
        here.close()
        there.close()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
