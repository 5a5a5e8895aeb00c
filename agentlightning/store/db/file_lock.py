"""A lock on a SQLite database file, which only one store at a time can hold.

It consists of two locks. The operating system releases both when the process ends, even if the process is killed.

- A lock on a file next to the database (`agl.db-owner`), which older releases of this package use as well. If the
  database is opened through a symbolic link, there is one such file next to the link and another next to the database.
- On Linux, a lock on the database file itself. It also works if the file is opened by another name: through a hard link
  or a bind mount, for example in another container.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path

import apsw

from ...errors import StoreInUse, StoreUnavailable
from ...private_files import create_private_file

if sys.platform == "linux":
    import fcntl

LOCK_SUFFIX = "-owner"
"""Suffix that is appended to a database's path to form the path of its lock file."""
_LOCKED_BYTE = 2**62
"""Offset of the byte that is locked in the database file. It is far beyond the bytes that SQLite locks at 1 GiB."""
_FLOCK = "hhqqi4x"
"""The C structure `flock`: type, whence, start, length, and a process id that must be 0."""
_CONFLICTS = (errno.EAGAIN, errno.EACCES)

_descriptors: set[int] = set()
"""The descriptors through which this process holds locks on database files."""


class FileLock:
    """Locks an existing database file until `release` is called. Raises `StoreInUse` if another store has the lock.

    `path` is the absolute path by which the user opened the file.
    """

    def __init__(self, path: Path) -> None:
        self._connections: list[apsw.Connection] = []
        self._descriptor: int | None = None
        try:
            # Lock the lock files first. If this process already holds them, do not open the database file, because
            # closing it again could release locks of SQLite (see `_close`).
            for lock_file in _lock_file_paths(path):
                self._connections.append(_acquire_lock_file(lock_file, path))
            self._descriptor = _lock_database(path)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock. Call this after closing all connections to the database."""
        if self._descriptor in _descriptors:  # false in a forked process, which has closed it
            _descriptors.discard(self._descriptor)
            _set_lock(self._descriptor, locked=False)
            _close(self._descriptor)
        self._descriptor = None
        for connection in self._connections:
            connection.close()
        self._connections.clear()


def check_not_open_elsewhere(path: Path) -> None:
    """Raise `StoreInUse` if a store has the database file open by another name, such as a hard link.

    If the file were opened as `path`, SQLite would use another WAL. Changes in the store's WAL would be missing, and
    writing would damage the database.
    """
    if _is_locked(path) and not _is_lock_file_held(path):
        raise StoreInUse(f"a store has {path} open by another name; use the name that the store uses")


def _is_lock_file_held(path: Path) -> bool:
    file = _lock_file_paths(path)[0]
    try:
        if file.exists():
            _acquire_lock_file(file, path).close()
    except StoreInUse:
        return True
    return False


def _lock_file_paths(path: Path) -> list[Path]:
    """Return the paths of the lock files next to the database and, if `path` is a symbolic link, next to the link."""
    names = Path(os.path.realpath(path)), Path(os.path.realpath(path.parent)) / path.name
    return [Path(f"{name}{LOCK_SUFFIX}") for name in dict.fromkeys(names)]


def _acquire_lock_file(file: Path, path: Path) -> apsw.Connection:
    """Lock a lock file of the database `path`. The lock is released when the returned connection is closed."""
    create_private_file(file)
    lock = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        # BEGIN runs only after the row that PRAGMA returns has been read.
        lock.execute("PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE").fetchall()
    except apsw.BusyError:
        lock.close()
        raise _in_use(path) from None
    return lock


def _lock_database(path: Path) -> int | None:
    """Lock the database file, and return the descriptor that holds the lock.

    Return None if the platform or the file system does not support such locks.
    """
    if sys.platform != "linux":
        return None
    descriptor = os.open(path, os.O_RDWR)
    try:
        _set_lock(descriptor, locked=True)
    except OSError as error:
        _close(descriptor)
        if error.errno in _CONFLICTS:
            raise _in_use(path) from None
        return None
    _descriptors.add(descriptor)
    return descriptor


def _is_locked(path: Path) -> bool:
    """Return True if a store has locked the database file, regardless of the name by which it opened the file."""
    if sys.platform != "linux" or not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0)
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, request)
    except OSError:  # the file system does not support such locks
        return False
    finally:
        _close(descriptor)
    return struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK


def _set_lock(descriptor: int, *, locked: bool) -> None:
    """Set or remove an open file description lock.

    SQLite uses locks of another kind, which belong to the process and are released when the process closes any
    descriptor for the file. The two kinds of locks do not affect each other, because they are on different bytes.
    """
    if sys.platform == "linux":
        kind = fcntl.F_WRLCK if locked else fcntl.F_UNLCK
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, _LOCKED_BYTE, 1, 0))


def _close(descriptor: int) -> None:
    """Close a descriptor for a database file, unless this would release locks of SQLite.

    If this process has SQLite connections to the file, closing the descriptor would release their locks. In this rare
    case, the descriptor stays open.
    """
    file = os.fstat(descriptor)
    for other in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor was closed in the meantime
            if int(other.name) != descriptor and os.path.samestat(os.fstat(int(other.name)), file):
                return
    os.close(descriptor)


def _close_after_fork() -> None:
    # A child process inherits the descriptors. If it kept them open, it would hold the lock even after the parent has
    # been killed. Closing them does not affect locks of SQLite, because these belong to the parent.
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_after_fork)


def _in_use(path: Path) -> StoreInUse:
    return StoreInUse(
        f"another store has {path} open, possibly by another name; connect to that store (LightningStoreClient), "
        "or choose another --db"
    )


class OpenFiles:
    """Detects if files of an open database have been deleted or replaced."""

    def __init__(self, database: Path) -> None:
        self._files = {path: path.stat() for path in (database, Path(f"{database}-wal")) if path.exists()}

    def check(self) -> None:
        """Raise `StoreUnavailable` if a file has been deleted or replaced, because changes would then be lost."""
        for path, opened in self._files.items():
            try:
                is_same = os.path.samestat(path.stat(), opened)
            except OSError:
                is_same = False
            if not is_same:
                raise StoreUnavailable(
                    f"the file {path} was deleted or replaced while the store was using it, so changes would be lost: "
                    "move the original file back, or stop the store and start it again"
                )
