"""A disk for SQLite that loses power, fills up, or fails to sync; everything else about it is real.

Writes go to real files and are noted until a sync. `image()` is what a power cut at this moment would leave: what was
synced, and of each later write all, nothing, or the sectors at its beginning.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import apsw

SECTOR = 512
REAL = apsw.vfs_names()[0]
_names = count(1)

Write = tuple[int, bytes | None]
"""Where, and what; None cuts the file off there."""


class Disk(apsw.VFS):
    """A virtual file system in front of the real one."""

    def __init__(self, *, seed: int = 0, honest: bool = True) -> None:
        self._name = f"disk-{next(_names)}"
        super().__init__(self._name, REAL)
        self._chance = random.Random(seed)
        self._honest = honest
        """Without it a sync says that it is done, and does nothing."""
        # Protects what is noted from the writer and the readers of one store.
        self._lock = threading.RLock()
        self._synced: dict[str, bytearray] = {}
        self._unsynced: dict[str, list[Write]] = {}
        self.operations = 0
        self.cut_at: int | None = None
        """The operation at which the power goes."""
        self.left: dict[str, bytes] | None = None
        """What was on the disk when it went."""
        self.broken: str | None = None
        """`full`, `write` or `sync`: what fails until further notice."""
        self.failures = 0

    @contextmanager
    def used(self) -> Iterator[Disk]:
        """SQLite uses this disk while inside."""
        apsw.set_default_vfs(self._name)
        try:
            yield self
        finally:
            apsw.set_default_vfs(REAL)
            self.unregister()

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name if isinstance(name, str) else name.filename() if name else None
        return _File(self, path, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        with self._lock:
            self._synced.pop(filename, None)
            self._unsynced.pop(filename, None)

    def image(self) -> dict[str, bytes]:
        """The files after a power cut."""
        with self._lock:
            return {path: self._after_a_cut(path) for path in {*self._synced, *self._unsynced}}

    def about_to(self, what: str) -> None:
        """Raise where the disk cannot do that just now."""
        with self._lock:
            self.operations += 1
            if self.left is None and self.operations == self.cut_at:
                self.left = self.image()
            if self.left is not None:
                raise apsw.IOError("the power is off")
            if self.broken == "full" and what == "write":
                self.failures += 1
                raise apsw.FullError("the disk is full")
            if self.broken == what:
                self.failures += 1
                raise apsw.IOError(f"the disk cannot {what}")

    def note(self, path: str, write: Write) -> None:
        with self._lock:
            self._unsynced.setdefault(path, []).append(write)

    def synced(self, path: str) -> None:
        with self._lock:
            if self._honest:
                self._synced[path] = _written(self._synced.get(path, bytearray()), self._unsynced.pop(path, []))

    def _after_a_cut(self, path: str) -> bytes:
        reached: list[Write] = []
        for at, data in self._unsynced.get(path, []):
            fate = self._chance.random()
            if fate < 0.4:
                continue
            torn = data is not None and fate < 0.6 and len(data) > SECTOR
            reached.append(
                (at, data[: SECTOR * self._chance.randrange(len(data) // SECTOR)] if torn and data else data)
            )
        return bytes(_written(bytearray(self._synced.get(path, b"")), reached))


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str | None, flags: list[int]) -> None:
        super().__init__(REAL, path, flags)
        self._disk = disk
        self._path = path or ""

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.about_to("write")
        super().xWrite(data, offset)
        self._disk.note(self._path, (offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.about_to("write")
        super().xTruncate(newsize)
        self._disk.note(self._path, (newsize, None))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.about_to("sync")
        # The real disk's answer is not waited for: what a cut leaves is decided here.
        self._disk.synced(self._path)


def restore(image: dict[str, bytes], into: Path) -> None:
    """The files of an image, under their own names in another folder."""
    into.mkdir()
    for path, content in image.items():
        if path and content:
            (into / Path(path).name).write_bytes(content)


def _written(content: bytearray, writes: list[Write]) -> bytearray:
    for at, data in writes:
        if data is None:
            del content[at:]
            continue
        if len(content) < at:
            content.extend(bytes(at - len(content)))
        content[at : at + len(data)] = data
    return content
