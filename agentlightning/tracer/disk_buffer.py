"""The spool: what a store has not taken yet, on disk, so that the end of this process does not cost it.

A file of lines for each pipeline and store, in the store's own folder, readable by its owner only. Whoever writes a
file holds a lock on it; one without a lock was left behind, and the next process that speaks to that store sends it.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..store.contract import LightningStore

if sys.platform != "win32":
    import fcntl

FOLDER_VARIABLE = "AGL_SPOOL_DIR"
_OURS = f"{socket.gethostname()}-"
"""How the names of this machine's files begin: a folder may be shared, and locks are known to one machine only."""


class Spool:
    """Lines in a file, first in, first out. The file is there while lines are in it.

    Without a folder it has no name, and ends with the process.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._lengths: deque[int] = deque()
        self._read_to = 0
        self._size = 0
        self.path: Path | None = None
        """Where it lies; None while there is no file, or where it has no name."""

    @property
    def survives(self) -> bool:
        """Somebody else can find it when this process has ended."""
        return self.path is not None

    def add(self, line: bytes) -> None:
        """Write a line. Raises OSError, and has then written nothing."""
        if self._file is None:
            self._open()
        assert self._file is not None
        try:
            os.lseek(self._file.fileno(), self._size, os.SEEK_SET)
            _write(self._file, line)
        except OSError:
            os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(line)
        self._lengths.append(len(line))

    def first(self) -> bytes:
        """The oldest line."""
        assert self._file is not None
        os.lseek(self._file.fileno(), self._read_to, os.SEEK_SET)
        return self._file.read(self._lengths[0])

    def drop_first(self) -> None:
        """Forget the oldest line; with the last one the file goes too."""
        self._read_to += self._lengths.popleft()
        if not self._lengths:
            self._remove()

    def close(self) -> None:
        """Let go of the file. What is in it stays for the next process, unless it has no name."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        if self._folder is None or sys.platform == "win32":
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        else:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file, self.path = _new_file(self._folder)
        self._size = self._read_to = 0

    def _remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self.close()
        self.path = None


def folder_of(store: LightningStore) -> Path | None:
    """Where spools for this store lie: under AGL_SPOOL_DIR, or with the user's state. None: it has no name."""
    name = getattr(store, "url", None) or getattr(store, "path", None)
    if name is None:
        return None
    said = os.environ.get(FOLDER_VARIABLE)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", str(name)).strip("-")[-60:]
    digest = hashlib.sha256(str(name).encode()).hexdigest()[:8]
    return (Path(said) if said else state / "agentlightning" / "spool") / f"{readable}-{digest}"


def left_behind(folder: Path) -> list[Path]:
    """Files that may have been left behind, oldest first."""
    if sys.platform == "win32" or not folder.is_dir():
        return []
    return sorted(folder.glob(f"{_OURS}*.jsonl"), key=_written)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # its owner, or another adopter, was quicker
        return 0.0


@contextmanager
def adopted(path: Path) -> Generator[IO[bytes] | None]:
    """The file as one's own, to be read; None when somebody else has it. When it is `sent`, say so."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        yield file if _lock(file) else None


def sent(path: Path, *, set_aside: bool) -> Path | None:
    """Remove an adopted file, or have it lie where nobody sends it again; where that is."""
    if set_aside:
        return path.rename(path.with_suffix(".refused"))
    path.unlink(missing_ok=True)
    return None


def _new_file(folder: Path) -> tuple[IO[bytes], Path]:
    while True:
        path = folder / f"{_OURS}{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        # An adopter that saw it before it was locked takes it for left behind and removes it; then once more.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b", buffering=0)
        if _lock(file):
            return file, path
        file.close()


def _write(file: IO[bytes], line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]


def _lock(file: IO[bytes]) -> bool:
    """Whether the file is ours now, and still there."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0
