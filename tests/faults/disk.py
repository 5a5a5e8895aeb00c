"""A disk for SQLite that loses power, fills up, or fails to sync.

Writes go to real files and are recorded until a sync. `image_after_power_cut()` returns a possible state after a power
cut: everything that was synced, and of each later write all, nothing, or its first sectors.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Literal

import apsw

SECTOR = 512
REAL_VFS = apsw.vfs_names()[0]
Failure = Literal["full", "write", "sync"]
_numbers = count(1)

Write = tuple[int, bytes | None]
"""Offset and data; data None truncates the file at the offset."""


class FaultyDisk(apsw.VFS):
    """A virtual file system in front of the real one; `ignore_sync` makes syncs without effect."""

    def __init__(self, *, seed: int = 0, ignore_sync: bool = False) -> None:
        self._name = f"disk-{next(_numbers)}"
        super().__init__(self._name, REAL_VFS)
        self._rng = random.Random(seed)
        self._ignore_sync = ignore_sync
        # Protects the recorded writes from the writer and the readers of one store.
        self._lock = threading.RLock()
        self._synced: dict[str, bytearray] = {}
        self._unsynced: dict[str, list[Write]] = {}
        self.operations = 0
        self.power_cut_at: int | None = None
        """The number of the operation at which the power is cut."""
        self.image_at_power_cut: dict[str, bytes] | None = None
        self.failure: Failure | None = None
        """The operation that fails until this is reset."""

    @contextmanager
    def mounted(self) -> Iterator[FaultyDisk]:
        """Make SQLite use this disk within the block."""
        apsw.set_default_vfs(self._name)
        try:
            yield self
        finally:
            apsw.set_default_vfs(REAL_VFS)
            self.unregister()

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name if isinstance(name, str) else name.filename() if name else None
        return _File(self, path, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        with self._lock:
            self._synced.pop(filename, None)
            self._unsynced.pop(filename, None)

    def image_after_power_cut(self) -> dict[str, bytes]:
        """Return the files after a power cut at this moment."""
        with self._lock:
            return {path: self._content_after_cut(path) for path in {*self._synced, *self._unsynced}}

    def check(self, operation: Literal["write", "sync"]) -> None:
        """Count an operation; raise an error if the disk currently fails it."""
        with self._lock:
            self.operations += 1
            if self.image_at_power_cut is None and self.operations == self.power_cut_at:
                self.image_at_power_cut = self.image_after_power_cut()
            if self.image_at_power_cut is not None:
                raise apsw.IOError("the power is off")
            if self.failure == "full" and operation == "write":
                raise apsw.FullError("the disk is full")
            if self.failure == operation:
                raise apsw.IOError(f"the disk cannot {operation}")

    def record_write(self, path: str, write: Write) -> None:
        with self._lock:
            self._unsynced.setdefault(path, []).append(write)

    def record_sync(self, path: str) -> None:
        with self._lock:
            if not self._ignore_sync:
                self._synced[path] = _apply(self._synced.get(path, bytearray()), self._unsynced.pop(path, []))

    def _content_after_cut(self, path: str) -> bytes:
        written: list[Write] = []
        for offset, data in self._unsynced.get(path, []):
            chance = self._rng.random()
            if chance < 0.4:  # lost
                continue
            if data is not None and chance < 0.6 and len(data) > SECTOR:  # torn
                data = data[: SECTOR * self._rng.randrange(len(data) // SECTOR)]
            written.append((offset, data))
        return bytes(_apply(bytearray(self._synced.get(path, b"")), written))


class _File(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, path: str | None, flags: list[int]) -> None:
        super().__init__(REAL_VFS, path, flags)
        self._disk = disk
        self._path = path or ""

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.check("write")
        super().xWrite(data, offset)
        self._disk.record_write(self._path, (offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.check("write")
        super().xTruncate(newsize)
        self._disk.record_write(self._path, (newsize, None))

    def xSync(self, flags: int) -> None:  # noqa: N802
        # The real disk is not synced: the content after a power cut is computed here.
        self._disk.check("sync")
        self._disk.record_sync(self._path)


def restore(image: dict[str, bytes], folder: Path) -> None:
    """Write the files of an image to a new folder, under their own names."""
    folder.mkdir()
    for path, content in image.items():
        if path and content:
            (folder / Path(path).name).write_bytes(content)


def _apply(content: bytearray, writes: list[Write]) -> bytearray:
    for offset, data in writes:
        if data is None:
            del content[offset:]
            continue
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
    return content
