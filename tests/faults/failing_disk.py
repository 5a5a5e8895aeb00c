"""A disk that fails at every point of a script: full, unwritable, or unable to sync, once at each operation.

Each operation is tried while the disk fails, and must be refused; then again when it works.
`python -m tests.faults.failing_disk FILE` does it where the kernel itself refuses to write (RLIMIT_FSIZE).
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentlightning.errors import StoreUnavailable
from agentlightning.store import SqliteLightningStore
from agentlightning.store.care import check

from ..contract.making import span
from .disk import Disk

POINTS = 100


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


async def fail_in_another_process(path: Path) -> Failures:
    """Where the kernel refuses every write: a limit that is the whole process's."""
    command = sys.executable, "-m", "tests.faults.failing_disk", str(path)
    process = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2], stdout=-1)
    said, _ = await process.communicate()
    assert process.returncode == 0
    return Failures(**json.loads(said))


@contextmanager
def no_file_may_be_written() -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
    how = "RLIMIT_FSIZE"
    print(json.dumps(asdict(asyncio.run(_run(Path(sys.argv[1]), how, no_file_may_be_written)))))
