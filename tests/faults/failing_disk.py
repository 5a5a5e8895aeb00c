"""A disk that fails at every point of a script: full, unwritable, or unable to sync, once at each operation.

Each operation runs once while the disk fails, and must be refused, and once when it works again.
`python -m tests.faults.failing_disk FILE HOW` is the same with a kernel that refuses to write: at a limit of the
process (RLIMIT_FSIZE), or on a file system without a free page (tmpfs).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agentlightning.errors import StoreUnavailable
from agentlightning.store import LightningStore, SqliteLightningStore
from agentlightning.store.maintenance import check_database

from ..contract.making import span
from ..processes import Program
from .disk import Failure, FaultyDisk

POINTS = 100
SMALL_DISK_SIZE = "8m"
MOUNT_FAILED = 77
"""Exit code of the shell that mounts a file system."""


@dataclass
class FailingDiskResult:
    """Number of operations, and their wrong effects."""

    how: str
    operations: int = 0
    refused: int = 0
    """Operations refused while the disk failed; each was acknowledged when the disk worked again."""
    wrong: list[str] = field(default_factory=list[str])
    """Changes that were acknowledged and are missing, or exist and were not acknowledged."""

    def __str__(self) -> str:
        return (
            f"failing disk ({self.how}): {self.operations} operations, {self.refused} refused while the disk failed, "
            f"{self.operations - self.refused} falsely acknowledged, {len(self.wrong)} lost or phantom"
        )


async def fail_at_every_point(path: Path, how: Failure) -> FailingDiskResult:
    """Run the script on a faulty disk."""
    disk = FaultyDisk()

    @contextmanager
    def failing() -> Generator[None]:
        disk.failure = how
        try:
            yield
        finally:
            disk.failure = None

    with disk.mounted():
        return await _run_script(path, how, failing)


class CannotMount(Exception):
    """This system does not allow the test to mount a file system."""


async def fail_by_limit(path: Path) -> FailingDiskResult:
    """Run the script in a process whose limit makes the kernel refuse every write."""
    status, output, errors = await _run_command(*_THIS_MODULE, str(path), "RLIMIT_FSIZE")
    assert status == 0, errors
    return FailingDiskResult(**json.loads(output))


async def fail_on_small_disk(folder: Path) -> FailingDiskResult:
    """Run the script on a file system of a few megabytes, which only its process sees. Raises `CannotMount`."""
    command = small_disk_command(folder, SMALL_DISK_SIZE)
    try:
        status, output, errors = await _run_command(*command, *_THIS_MODULE, str(folder / "agl.db"), "tmpfs")
    except FileNotFoundError as error:
        raise CannotMount(f"{error.filename} is not installed") from None
    if status == MOUNT_FAILED or errors.startswith("unshare:"):
        raise CannotMount(errors)
    assert status == 0, errors
    return FailingDiskResult(**json.loads(output))


def small_disk_command(folder: Path, size: str) -> list[str]:
    """Return a command that mounts a small file system at `folder` for one program only, and executes the program.

    If the file system cannot be mounted, the command exits with `MOUNT_FAILED`.
    """
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0" || exit {MOUNT_FAILED}; exec "$@"'
    user_namespace = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user_namespace, "--mount", "sh", "-c", mount, str(folder)]


class ProgramOnSmallDisk(Program):
    """A script with a small file system of its own at `folder`, which the test can fill. Raises `CannotMount`."""

    def __init__(self, folder: Path, size: str, script: Path, *arguments: str, environment: Mapping[str, str]) -> None:
        self._folder = folder
        try:
            super().__init__(script, *arguments, environment=environment, wrapper=small_disk_command(folder, size))
        except FileNotFoundError as error:
            raise CannotMount(f"{error.filename} is not installed") from None

    @property
    def disk(self) -> Path:
        """The folder as this process sees it."""
        return Path(f"/proc/{self.pid}/root{self._folder}")

    def wait_for_start(self, pattern: str) -> None:
        """Wait for the first line of the script. Raises `CannotMount`."""
        try:
            self.wait_for_line(pattern)
        except AssertionError:
            if self.wait() == MOUNT_FAILED or self.output.startswith("unshare:"):
                raise CannotMount(self.output) from None
            raise

    def fill(self) -> None:
        with (self.disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(2**16))

    def empty(self) -> None:
        (self.disk / "filler").unlink()


_THIS_MODULE = sys.executable, "-m", "tests.faults.failing_disk"


async def _run_command(*command: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode().strip()


@contextmanager
def file_size_limit() -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_file_system(folder: Path) -> Generator[None]:
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:  # a partial write fills the remaining space
                file.write(bytes(2**20))
        yield
    finally:
        filler.unlink()


async def _run_script(path: Path, how: str, failing: Callable[[], AbstractContextManager[None]]) -> FailingDiskResult:
    result, expected_spans = FailingDiskResult(how), dict[str, int]()
    async with SqliteLightningStore(path) as store:
        running: Any = None
        for point in range(POINTS):
            result.operations += 1
            try:
                with failing():
                    await _run_operation(store, point, running)
            except StoreUnavailable:
                result.refused += 1
            running = await _run_operation(store, point, running)
            spans = expected_spans.get(running.rollout_id, 0)
            expected_spans[running.rollout_id] = spans + (0 < point % 5 < 4)
    result.wrong = await _compare(path, expected_spans)
    return result


async def _run_operation(store: LightningStore, point: int, running: Any) -> Any:
    """Run one operation of the script: start a rollout, add three spans, end it, and repeat."""
    match point % 5:
        case 0:
            return await store.start_rollout({"point": point})
        case 4:
            await store.update_attempt(running.rollout_id, "latest", status="succeeded")
        case number:
            await store.add_span(span(running, number, attributes={"text": "x" * 3_000}))
    return running


async def _compare(path: Path, expected_spans: dict[str, int]) -> list[str]:
    wrong = check_database(path)
    async with SqliteLightningStore(path) as store:
        stored = {rollout.rollout_id for rollout in await store.query_rollouts()}
        wrong += [f"rollout {rollout_id}" for rollout_id in stored ^ set(expected_spans)]
        for rollout_id, spans in expected_spans.items():
            if (await store.query_spans(rollout_id)).total != spans:
                wrong.append(f"spans of {rollout_id}")
    return wrong


if __name__ == "__main__":
    path, how = Path(sys.argv[1]), sys.argv[2]
    failing = file_size_limit if how == "RLIMIT_FSIZE" else partial(full_file_system, path.parent)
    print(json.dumps(asdict(asyncio.run(_run_script(path, how, failing)))))
