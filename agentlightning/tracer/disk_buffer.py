"""Disk buffer: keeps spans on disk until the store has accepted them, so that they are not lost if the process ends.

Each tracer's pipeline has one file per store, with one batch of spans and attempt reports per line. All files for a
store are in one folder and are readable only by the user who owns them. A process holds a lock on each file that it
writes. A file without a lock is therefore a leftover from a process that has ended. The next process on the same
machine that uses the store sends the contents of the leftover files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import stat
import sys
import tempfile
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

from ..store.contract import LightningStore

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("agentlightning.tracer")

FOLDER_VARIABLE = "AGL_SPOOL_DIR"
_FILE_PREFIX = f"{socket.gethostname()}-"
"""Prefix for the names of the files that this machine writes. Several machines may share a folder, but one machine may
not see another's locks, so each machine reads only its own files."""


class DiskBuffer:
    """A first-in, first-out queue of lines in a file. The file exists only while it contains lines.

    If `folder` is None, and always on Windows, the file is a temporary file that is deleted when the process ends.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._lengths: deque[int] = deque()
        self._read_position = 0
        self._size = 0
        self.path: Path | None = None
        """Path of the file. None if there is no file, or if it is a temporary file."""

    def append(self, line: bytes) -> None:
        """Append a line to the file. If this raises OSError, the contents of the file are unchanged."""
        file = self._file = self._file or self._open()
        try:
            os.lseek(file.fileno(), self._size, os.SEEK_SET)
            rest = memoryview(line)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            os.ftruncate(file.fileno(), self._size)
            raise
        self._size += len(line)
        self._lengths.append(len(line))

    def first(self) -> bytes:
        """Return the oldest line."""
        assert self._file is not None
        os.lseek(self._file.fileno(), self._read_position, os.SEEK_SET)
        return self._file.read(self._lengths[0])

    def remove_first(self) -> None:
        """Remove the oldest line. If no lines remain, also delete the file."""
        self._read_position += self._lengths.popleft()
        if not self._lengths:
            if self.path is not None:
                self.path.unlink(missing_ok=True)
                self.path = None
            self.close()

    def close(self) -> None:
        """Close the file. Unless it is temporary, it remains on disk for the next process that uses the store."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> IO[bytes]:
        self._size = self._read_position = 0
        if self._folder is None or sys.platform == "win32":
            return tempfile.TemporaryFile(buffering=0)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file, self.path = _create_file(self._folder)
        return file


def buffer_folder(store: LightningStore) -> Path | None:
    """Return the folder for a store's buffer files.

    The folder's parent is the value of the environment variable AGL_SPOOL_DIR or, if the variable is not set,
    `agentlightning/spool` in the user's state directory (`$XDG_STATE_HOME` or `~/.local/state`). If the state directory
    cannot be used, the parent is a private folder in the system's temporary directory. Return None if there is no such
    private folder either, or if the store has neither a URL nor a path.
    """
    name = getattr(store, "url", None) or getattr(store, "path", None)
    parent = None if name is None else _parent_folder()
    if parent is None:
        return None
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", str(name)).strip("-")[-60:]
    digest = hashlib.sha256(str(name).encode()).hexdigest()[:8]
    return parent / f"{readable}-{digest}"


def leftover_files(folder: Path) -> list[Path]:
    """List this machine's buffer files in `folder`, least recently modified first.

    Only the files that are not locked are leftovers. On Windows, the list is empty.
    """
    if sys.platform == "win32" or not folder.is_dir():
        return []
    return sorted(folder.glob(f"{_FILE_PREFIX}*.jsonl"), key=_modified)


@contextmanager
def claim(path: Path) -> Generator[IO[bytes] | None]:
    """Open a leftover file for reading and lock it. Yield None if the file is already locked or has been removed."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        yield file if _lock(file) else None


def remove(path: Path) -> None:
    """Delete a leftover file that this process has claimed."""
    path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a leftover file that this process has claimed, so that it is not sent again. Return its new path."""
    return path.rename(path.with_suffix(".refused"))


def _parent_folder() -> Path | None:
    if configured := os.environ.get(FOLDER_VARIABLE):
        return Path(configured)
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # HOME is not set, and the user is not in the password database
        return _temporary_folder("the user has no home directory")
    existing = next(folder for folder in (state, *state.absolute().parents) if folder.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return _temporary_folder(f"{existing} is not writable")
    return state / "agentlightning" / "spool"


@cache
def _temporary_folder(reason: str) -> Path | None:
    """Return a temporary folder that only this user can access, or None if there is none.

    Log one warning with the reason for using a temporary folder.
    """
    if sys.platform == "win32":
        return None
    folder = Path(tempfile.gettempdir()) / f"agentlightning-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    place = str(folder) if is_private else "a temporary file, which is lost if this process is killed"
    message = "Unsent spans are buffered in %s, because %s. To choose another folder, set %s."
    logger.warning(message, place, reason, FOLDER_VARIABLE)
    return folder if is_private else None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has removed the file in the meantime
        return 0.0


def _create_file(folder: Path) -> tuple[IO[bytes], Path]:
    while True:
        path = folder / f"{_FILE_PREFIX}{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        # Until the file is locked, another process may mistake it for a leftover, and lock or remove it. In that case,
        # create another file.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b", buffering=0)
        if _lock(file):
            return file, path
        file.close()


def _lock(file: IO[bytes]) -> bool:
    """Lock the file. Return False if it is already locked or has been removed, and always on Windows."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0
