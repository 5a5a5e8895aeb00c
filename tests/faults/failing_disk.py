"""A disk that fails at every point of a script: full, unwritable, or unable to sync, once at each operation.

Each operation is tried while the disk fails, and must be refused; then again when it works.
`python -m tests.faults.failing_disk FILE HOW` does it where the kernel itself refuses to write: at a limit of the
process (RLIMIT_FSIZE), or on a file system without a free page (tmpfs).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agentlightning.errors import StoreUnavailable
from agentlightning.store import SqliteLightningStore
from agentlightning.store.maintenance import check

from ..contract.making import span
from .disk import Disk

POINTS = 100
SMALL_DISK = "8m"
NOT_MOUNTED = 77


@dataclass
class Failures:
    """What came of the operations."""

    how: str
    operations: int = 0
    refused: int = 0
    """While the disk failed; each was acknowledged when it worked again."""
    wrong: list[str] = field(default_factory=list[str])
    """Acknowledged and not there, or there and not acknowledged."""

    def __str__(self) -> str:
        return (
            f"failing disk ({self.how}): {self.operations} operations, {self.refused} refused while the disk failed, "
            f"{self.operations - self.refused} falsely acknowledged, {len(self.wrong)} lost or phantom"
        )


async def fail_at_every_point(path: Path, how: str) -> Failures:
    """`how`: `full`, `write` or `sync`, on a disk of our own."""
    disk = Disk()

    @contextmanager
    def failing() -> Generator[None]:
        disk.broken = how
        try:
            yield
        finally:
            disk.broken = None

    with disk.used():
        return await _run(path, how, failing)


class CannotMount(Exception):
    """This system lets us have no file system of our own."""


async def fail_by_limit(path: Path) -> Failures:
    """Where the kernel refuses every write: a limit that is the whole process's."""
    status, said, complaint = await _output_of(*_ITSELF, str(path), "RLIMIT_FSIZE")
    assert status == 0, complaint
    return Failures(**json.loads(said))


async def fail_on_small_disk(folder: Path) -> Failures:
    """On a file system of a few megabytes, which only the process that fills it sees. Raises `CannotMount`."""
    mounting = f'mount -t tmpfs -o size={SMALL_DISK} tmpfs "$0" || exit {NOT_MOUNTED}; exec "$@"'
    alone = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = "unshare", *alone, "--mount", "sh", "-c", mounting, str(folder)
    try:
        status, said, complaint = await _output_of(*command, *_ITSELF, str(folder / "agl.db"), "tmpfs")
    except FileNotFoundError as error:
        raise CannotMount(f"there is no {error.filename} here") from None
    if status == NOT_MOUNTED or complaint.startswith("unshare:"):
        raise CannotMount(complaint)
    assert status == 0, complaint
    return Failures(**json.loads(said))


_PIECE = bytes(2**20)
_ITSELF = sys.executable, "-m", "tests.faults.failing_disk"


async def _output_of(*command: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, complaint = await process.communicate()
    return process.returncode, said.decode(), complaint.decode().strip()


@contextmanager
def no_file_may_be_written() -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_page_is_free(disk: Path) -> Generator[None]:
    rest = disk / "rest"
    try:
        with rest.open("wb", buffering=0) as file, suppress(OSError):
            while True:  # what there is room for is written of each piece, so nothing is left
                file.write(_PIECE)
        yield
    finally:
        rest.unlink()


async def _run(path: Path, how: str, failing: Any) -> Failures:
    result, kept = Failures(how), dict[str, int]()
    async with SqliteLightningStore(path) as store:
        running: Any = None
        for point in range(POINTS):
            result.operations += 1
            try:
                with failing():
                    await _step(store, point, running)
            except StoreUnavailable:
                result.refused += 1
            running = await _step(store, point, running)
            _note(running, point, kept)
    result.wrong = await _differences(path, kept)
    return result


async def _step(store: SqliteLightningStore, point: int, running: Any) -> Any:
    """One operation of the script: a rollout, three spans, its end, and again."""
    match point % 5:
        case 0:
            return await store.start_rollout({"point": point})
        case 4:
            await store.update_attempt(running.rollout_id, "latest", status="succeeded")
        case number:
            await store.add_span(span(running, number, attributes={"text": "x" * 3_000}))
    return running


def _note(running: Any, point: int, kept: dict[str, int]) -> None:
    spans = kept.get(running.rollout_id, 0)
    kept[running.rollout_id] = spans + (0 < point % 5 < 4)


async def _differences(path: Path, kept: dict[str, int]) -> list[str]:
    wrong = check(path)
    async with SqliteLightningStore(path) as store:
        there = {rollout.rollout_id for rollout in await store.query_rollouts()}
        wrong += [f"rollout {rollout_id}" for rollout_id in there ^ set(kept)]
        for rollout_id, spans in kept.items():
            if (await store.query_spans(rollout_id)).total != spans:
                wrong.append(f"spans of {rollout_id}")
    return wrong


if __name__ == "__main__":
    path, how = Path(sys.argv[1]), sys.argv[2]
    failing = no_file_may_be_written if how == "RLIMIT_FSIZE" else partial(no_page_is_free, path.parent)
    print(json.dumps(asdict(asyncio.run(_run(path, how, failing)))))
