"""Process supervisor: starts runner processes, reports their exits, and stops them.

Forking is safe only in a process without threads, but opening a store may start threads in the algorithm's process. The
supervisor therefore forks a helper process, the fork server, before the store is opened. The fork server does not have
any threads besides its main thread, so it can fork runners at any time during a run. With the start methods spawn and
forkserver, the algorithm's process is not forked. In this case, the fork server is a thread of that process.

The supervisor sends commands to the fork server through a pipe, and the fork server uses the same pipe to report that
runners have exited. If the pipe closes, the fork server stops its runners and exits.
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
from collections.abc import Generator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Literal

from ..errors import RunnerDied
from ..processes import kill_group
from .base import RunnerTask
from .runner_process import CrashReport, pickle_runner, run_runner_process

logger = logging.getLogger(__name__)

StartMethod = Literal["fork", "spawn", "forkserver"]

ORPHAN_GRACE_SECONDS: Final = 2.0
"""Time in seconds that runners are given to stop after the supervisor's process has ended."""
KILL_TIMEOUT: Final = 3.0
"""Time in seconds that a fork server is given to kill its runners and exit."""


@dataclass(frozen=True)
class StartCommand:
    """Command to start runner number `worker`, which uses the store at `url`."""

    worker: int
    url: str


@dataclass(frozen=True)
class StopCommand:
    """Command to stop all runners with SIGTERM or, if `kill` is True, to kill them and end the fork server."""

    kill: bool = False


@dataclass(frozen=True)
class ProcessExit:
    """The exit of a runner's process."""

    worker: int
    pid: int
    exitcode: int
    crash: CrashReport | None = None
    """The error that ended the runner, or None if the process did not report an error."""

    @property
    def cause(self) -> str:
        """A description of the exit, such as `exited with code 1`."""
        if self.exitcode >= 0:
            return f"exited with code {self.exitcode}"
        hint = " (out of memory?)" if self.exitcode == -signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-self.exitcode).name}{hint}"


class ProcessSupervisor:
    """Starts and stops runner processes.

    Use it as a context manager. All processes that are still running at the end of the block are killed.
    """

    def __init__(self, runner: RunnerTask, method: StartMethod | None) -> None:
        self._runner = runner
        self._method: StartMethod | None = method
        self.running = 0
        """Number of runners that have been started and have not yet exited."""
        self._pipe, self._server_pipe = multiprocessing.Pipe()
        self._server: BaseProcess | threading.Thread | None = None

    def __enter__(self) -> ProcessSupervisor:
        method, runner = _select_method(self._runner, self._method)
        context: Any = multiprocessing.get_context(method)
        server = _ForkServer(context, runner, self._server_pipe)
        if method == "fork":
            self._server = context.Process(target=server.run_in_process, args=(self._pipe,), name="agl-fork-server")
        else:
            self._server = threading.Thread(target=server.run, name="agl-fork-server", daemon=True)
        assert self._server is not None
        with warnings.catch_warnings():
            # Python warns if a process with threads is forked. The warning is not needed: either the user has chosen
            # fork explicitly, or `_select_method` has already logged a clearer warning.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._server.start()
        if method == "fork":
            self._server_pipe.close()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._send(StopCommand(kill=True))
        self._server.join(KILL_TIMEOUT)
        if isinstance(self._server, BaseProcess) and self._server.is_alive():
            self._server.kill()
            self._server.join()
        self._pipe.close()
        self._server_pipe.close()

    def start(self, worker: int, url: str) -> None:
        """Start runner number `worker`, which uses the store at `url`."""
        self.running += 1
        self._send(StartCommand(worker, url))

    async def next_exit(self) -> ProcessExit:
        """Wait until a runner exits, and return a `ProcessExit`. Raises `RunnerDied` if the fork server has ended."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pipe.fileno(), readable.set)
        try:
            await readable.wait()
            exited: ProcessExit = self._pipe.recv()
        except (EOFError, OSError):
            raise RunnerDied("the process that starts the runners was killed") from None
        finally:
            loop.remove_reader(self._pipe.fileno())
        self.running -= 1
        return exited

    async def stop(self, grace: float) -> None:
        """Stop all runners with SIGTERM, and kill any that have not exited after `grace` seconds."""
        self._send(StopCommand())
        try:
            async with asyncio.timeout(grace):
                while self.running:
                    await self.next_exit()
        except TimeoutError:
            logger.warning("A runner did not stop within %g s and is being killed.", grace)
            self._send(StopCommand(kill=True))

    def _send(self, command: StartCommand | StopCommand) -> None:
        with contextlib.suppress(OSError):  # the fork server has ended; `next_exit` raises the error
            self._pipe.send(command)


@dataclass
class _Child:
    process: BaseProcess
    reports: Connection


@dataclass
class _ForkServer:
    """Executes the supervisor's commands, and reports to the supervisor when runners exit."""

    context: Any
    runner: RunnerTask | bytes
    pipe: Connection
    _children: dict[int, _Child] = field(default_factory=dict[int, _Child])

    def run_in_process(self, parent_pipe: Connection) -> None:
        """Run in a forked process. `parent_pipe` is this process's unused copy of the supervisor's end of the pipe."""
        parent_pipe.close()
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.run()

    def run(self) -> None:
        """Run until a command to kill the runners arrives or the supervisor's end of the pipe closes."""
        while True:
            sentinels = {child.process.sentinel: worker for worker, child in self._children.items()}
            for ready in wait([self.pipe, *sentinels]):
                if ready is self.pipe:
                    if not self._execute_command():
                        return
                elif isinstance(ready, int) and ready in sentinels:
                    self._report_exit(sentinels[ready])

    def _execute_command(self) -> bool:
        try:
            command = self.pipe.recv()
        except (EOFError, OSError):
            self._terminate()
            self._kill(ORPHAN_GRACE_SECONDS)
            return False
        match command:
            case StartCommand(worker, url):
                self._start(worker, url)
            case StopCommand(kill=False):
                self._terminate()
            case _:
                self._kill(0)
                return False
        return True

    def _start(self, worker: int, url: str) -> None:
        reports, child_reports = self.context.Pipe()
        with _without_main():
            process: BaseProcess = self.context.Process(
                target=run_runner_process, args=(self.runner, worker, url, child_reports), name=f"agl-runner-{worker}"
            )
            process.start()
        child_reports.close()
        self._children[worker] = _Child(process, reports)

    def _report_exit(self, worker: int) -> None:
        child = self._children.pop(worker)
        child.process.join()
        crash: Any = None
        with contextlib.suppress(EOFError, OSError):
            crash = child.reports.recv() if child.reports.poll() else None
        child.reports.close()
        assert child.process.pid is not None
        with contextlib.suppress(OSError):
            self.pipe.send(ProcessExit(worker, child.process.pid, child.process.exitcode or 0, crash))

    def _terminate(self) -> None:
        for child in self._children.values():
            child.process.terminate()

    def _kill(self, grace: float) -> None:
        """Wait up to `grace` seconds for the runners to exit, then kill the rest and any processes they started."""
        deadline = time.monotonic() + grace
        for child in self._children.values():
            child.process.join(max(0.0, deadline - time.monotonic()))
            assert child.process.pid is not None
            if child.process.is_alive():
                kill_group(child.process.pid)
                child.process.kill()
            child.process.join()
        self._children.clear()


def _select_method(runner: RunnerTask, method: StartMethod | None) -> tuple[StartMethod, RunnerTask | bytes]:
    """Return the start method to use, and the runner, which is pickled unless the start method is fork."""
    if method == "fork" or (method is None and sys.platform == "linux" and threading.active_count() == 1):
        return "fork", runner
    fresh: StartMethod = method or ("forkserver" if sys.platform == "linux" else "spawn")
    try:
        return fresh, pickle_runner(runner)
    except Exception as error:
        if method is None and sys.platform == "linux":
            logger.warning(
                "The agent cannot be pickled for a fresh process (%s), so runners are forked although this process has "
                "threads. To avoid that, create clients and locks inside the agent.",
                error,
            )
            return "fork", runner
        raise TypeError(
            f"the agent cannot be pickled for a fresh process ({error}): create clients, locks and similar objects "
            "inside the agent, or use strategy='shm'"
        ) from error


@contextlib.contextmanager
def _without_main() -> Generator[None]:
    """Prevent processes that are started in this block from importing the main script.

    The import is not necessary, because the pickled runner contains everything from the script that it uses.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
