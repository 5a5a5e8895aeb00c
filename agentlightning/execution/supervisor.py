"""The nursery: a process that starts runners' processes, and tells when they end.

Forking is safe only in a process without threads, and the algorithm's process has many as soon as it has a store. So
the nursery is forked first, stays without threads, and forks runners whenever it is told to, also in the middle of a
run. With the start methods spawn and forkserver nothing is forked, and the nursery is a thread instead.

Orders go down a pipe and happenings come up another; a nursery whose orders end kills its runners and is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Literal

from ..errors import RunnerDied
from .runner_process import Crash, Job, kill_group, work

logger = logging.getLogger(__name__)

StartMethod = Literal["fork", "spawn", "forkserver"]

ORPHAN_SECONDS: Final = 2.0
"""How long runners may take to stop when their nursery was left alone."""
LAST_SECONDS: Final = 3.0
"""How long a nursery that was told to kill everything may take for it."""


@dataclass(frozen=True)
class Start:
    """Order: start this runner."""

    worker: int
    url: str


@dataclass(frozen=True)
class Stop:
    """Order: stop all runners; `at_once` kills them."""

    at_once: bool = False


@dataclass(frozen=True)
class Ended:
    """A runner's process is no more."""

    worker: int
    pid: int
    exitcode: int
    crash: Crash | None = None

    @property
    def how(self) -> str:
        """In words."""
        if self.exitcode >= 0:
            return f"exited with code {self.exitcode}"
        hint = " (out of memory?)" if self.exitcode == -signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-self.exitcode).name}{hint}"


class Nursery:
    """Runners' processes, from where the algorithm runs. A context manager: nothing is left when it exits."""

    def __init__(self, job: Job, method: StartMethod | None) -> None:
        self._job = job
        self._method: StartMethod | None = method
        self._running = 0
        self._mine, self._its = multiprocessing.Pipe()
        self._body: BaseProcess | threading.Thread | None = None

    def __enter__(self) -> Nursery:
        method, job = _chosen(self._job, self._method)
        context: Any = multiprocessing.get_context(method)
        keep = _Keeper(context, job, self._its)
        if method == "fork":
            self._body = context.Process(target=_live, args=(keep, self._mine), name="agl-nursery")
        else:
            self._body = threading.Thread(target=keep.run, name="agl-nursery", daemon=True)
        assert self._body is not None
        with warnings.catch_warnings():
            # Where there are threads all the same, that has been said already, and better.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._body.start()
        if method == "fork":
            self._its.close()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._body is not None
        self._order(Stop(at_once=True))
        self._body.join(LAST_SECONDS)
        if isinstance(self._body, BaseProcess) and self._body.is_alive():
            self._body.kill()
            self._body.join()
        self._mine.close()
        self._its.close()

    @property
    def running(self) -> int:
        """How many runners were started and have not ended."""
        return self._running

    def start(self, worker: int, url: str) -> None:
        """Start a runner of the store at `url`."""
        self._running += 1
        self._order(Start(worker, url))

    async def ends(self) -> AsyncGenerator[Ended]:
        """Each end of a runner, as it comes. Raises `RunnerDied` when the nursery itself is gone."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._mine.fileno(), ready.set)
        try:
            while True:
                await ready.wait()
                ready.clear()
                for ended in self._received():
                    self._running -= 1
                    yield ended
        finally:
            loop.remove_reader(self._mine.fileno())

    async def stop(self, grace: float) -> None:
        """Let all runners finish or give back what they hold; kill those that take longer than `grace` seconds."""
        self._order(Stop())
        try:
            async with asyncio.timeout(grace):
                await self._until_empty()
        except TimeoutError:
            logger.warning("A runner has not stopped within %g s and is killed.", grace)
            self._order(Stop(at_once=True))

    async def _until_empty(self) -> None:
        if not self._running:
            return
        async with contextlib.aclosing(self.ends()) as ends:
            async for _ in ends:
                if not self._running:
                    return

    def _received(self) -> Generator[Ended]:
        try:
            while self._mine.poll():
                yield self._mine.recv()
        except (EOFError, OSError):
            raise RunnerDied("the process that keeps the runners was killed") from None

    def _order(self, order: Start | Stop) -> None:
        with contextlib.suppress(OSError):  # it is gone; whoever waits for its runners hears of it
            self._mine.send(order)


@dataclass
class _Child:
    process: BaseProcess
    report: Connection


class _Keeper:
    """The nursery itself: carries out orders, and tells of ends."""

    def __init__(self, context: Any, job: Job | bytes, pipe: Connection) -> None:
        self._context = context
        self._job = job
        self._pipe = pipe
        self._children: dict[int, _Child] = {}

    def run(self) -> None:
        """Work until told to stop at once, or until there is nobody to give orders."""
        while True:
            sentinels = {child.process.sentinel: worker for worker, child in self._children.items()}
            for ready in wait([self._pipe, *sentinels]):
                if ready is self._pipe:
                    if not self._obey():
                        return
                elif isinstance(ready, int) and ready in sentinels:
                    self._tell_of_end(sentinels[ready])

    def _obey(self) -> bool:
        try:
            order = self._pipe.recv()
        except (EOFError, OSError):
            self.end(ORPHAN_SECONDS)
            return False
        match order:
            case Start(worker, url):
                self._start(worker, url)
            case Stop(at_once=False):
                self._terminate()
            case _:
                self.end(0)
                return False
        return True

    def _start(self, worker: int, url: str) -> None:
        ours, theirs = self._context.Pipe()
        with _without_main():
            process: BaseProcess = self._context.Process(
                target=work, args=(self._job, worker, url, theirs), name=f"agl-runner-{worker}"
            )
            process.start()
        theirs.close()
        self._children[worker] = _Child(process, ours)

    def _tell_of_end(self, worker: int) -> None:
        child = self._children.pop(worker)
        child.process.join()
        crash: Any = None
        with contextlib.suppress(EOFError, OSError):
            crash = child.report.recv() if child.report.poll() else None
        child.report.close()
        assert child.process.pid is not None
        with contextlib.suppress(OSError):
            self._pipe.send(Ended(worker, child.process.pid, child.process.exitcode or 0, crash))

    def _terminate(self) -> None:
        for child in self._children.values():
            child.process.terminate()

    def end(self, grace: float) -> None:
        """Stop all runners, kill those that are left after `grace` seconds, and what runners have started as well."""
        if grace:
            self._terminate()
            wait_all([child.process for child in self._children.values()], grace)
        for child in self._children.values():
            assert child.process.pid is not None
            if child.process.is_alive():
                kill_group(child.process.pid)
                child.process.kill()
            child.process.join()
        self._children.clear()


def wait_all(processes: list[BaseProcess], seconds: float) -> None:
    """Wait until all have ended, but not longer than `seconds`."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))


def _live(keeper: _Keeper, parents_end: Connection) -> None:
    parents_end.close()
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    keeper.run()


def _chosen(job: Job, method: StartMethod | None) -> tuple[StartMethod, Job | bytes]:
    """The start method, and the job in the form that suits it."""
    if method == "fork" or (method is None and _fork_is_safe()):
        return "fork", job
    fresh: StartMethod = method or ("forkserver" if sys.platform == "linux" else "spawn")
    try:
        return fresh, job.packed()
    except Exception as error:
        if method is None and sys.platform == "linux":
            logger.warning(
                "The agent cannot be sent to a fresh process (%s), so runners are forked although this process has "
                "threads. To avoid that, create clients and locks inside the agent.",
                error,
            )
            return "fork", job
        raise TypeError(
            f"the agent cannot be sent to a fresh process ({error}): create clients, locks and the like inside the "
            "agent, or use strategy='shm'"
        ) from error


def _fork_is_safe() -> bool:
    return sys.platform == "linux" and threading.active_count() == 1


@contextlib.contextmanager
def _without_main() -> Generator[None]:
    """Keep fresh processes from importing the script again: whatever they need of it was packed by value."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
