"""Entry point of a runner process: runs the runner, reports any error to the parent, and ends when the parent ends."""

from __future__ import annotations

import asyncio
import io
import logging
import multiprocessing
import os
import signal
import threading
import traceback
import types
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, ClassVar, Final

import cloudpickle

from ..processes import end_with_parent
from ..store import LightningStoreClient
from .base import RunnerTask

POLL_INTERVAL_PARENT: Final = 0.5
GRACE_SECONDS: Final = 2.0
"""Time in seconds that a runner is given to stop after its parent has ended."""


def pickle_runner(runner: RunnerTask) -> bytes:
    """Pickle a runner and the current log level for use in a new Python process.

    The pickle includes the functions and classes from `__main__` that the runner uses, so the new process does not need
    to import the script. Raises any error that occurs during pickling.
    """
    file = io.BytesIO()
    _Pickler(file).dump((runner, _console_level()))
    return file.getvalue()


_reducers: Any = cloudpickle.Pickler.dispatch_table


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    make, arguments = _reducers[types.CodeType](code)
    return _make_code, (code.co_filename, make, arguments)


def _make_code(file: str, make: Callable[..., types.CodeType], arguments: tuple[Any, ...]) -> types.CodeType:
    return make(*arguments).replace(co_filename=file)


class _Pickler(cloudpickle.Pickler):
    """A pickler that preserves the file names of code objects, so that tracebacks in the new process are readable."""

    dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: _reduce_code}, _reducers)


@dataclass(frozen=True)
class CrashReport:
    """An exception in a form that can be sent to the parent process."""

    pickled: bytes | None
    """The pickled exception, or None if the exception cannot be pickled."""
    summary: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> CrashReport:
        """Create a report for `error`."""
        try:
            pickled = cloudpickle.dumps(error)
        except Exception:
            pickled = None
        return cls(pickled, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))

    def as_error(self) -> BaseException:
        """Return the exception, or a RuntimeError with the summary if the exception cannot be pickled or unpickled.

        The error's `__cause__` shows the original traceback.
        """
        error: BaseException
        try:
            error = cloudpickle.loads(self.pickled) if self.pickled else RuntimeError(self.summary)
        except Exception:
            error = RuntimeError(self.summary)
        error.__cause__ = RunnerTraceback(self.traceback)
        return error


class RunnerTraceback(Exception):
    """Shows the traceback from a runner's process as the cause of an error that is raised in the parent."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def run_runner_process(runner: RunnerTask | bytes, worker: int, url: str, reports: Connection) -> None:
    """Run `runner`, which is pickled unless this process was forked.

    Any error other than SystemExit is sent to the parent as a `CrashReport`, through the connection `reports`.
    """
    _detach_from_parent()
    try:
        asyncio.run(_run(_load(runner), worker, url))
    except SystemExit as error:
        raise SystemExit(error.code) from None
    except BaseException as error:
        reports.send(CrashReport.of(error))
        raise SystemExit(1) from None


async def _run(runner: RunnerTask, worker: int, url: str) -> None:
    async with LightningStoreClient(url) as store:
        await runner(store, worker, threading.Event())


def _load(runner: RunnerTask | bytes) -> RunnerTask:
    if not isinstance(runner, bytes):
        return runner
    loaded, log_level = cloudpickle.loads(runner)
    if log_level:
        from ..logs import setup_logging

        setup_logging(log_level)
    return loaded


def _console_level() -> int | None:
    """Return the lowest level of messages that the `agentlightning` logger prints, or None if it prints nothing.

    Handlers that write to files are ignored.
    """
    logger = logging.getLogger("agentlightning")
    handlers = [handler for handler in logger.handlers if not isinstance(handler, logging.FileHandler)]
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        record = logging.LogRecord(logger.name, level, "", 0, "", None, None)
        if logger.isEnabledFor(level) and any(level >= each.level and each.filter(record) for each in handlers):
            return level
    return None


def _detach_from_parent() -> None:
    """Detach from the terminal, because the parent handles Ctrl-C. End this process when the parent ends."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent, parent_pid = multiprocessing.parent_process(), os.getppid()
    assert parent is not None

    def wait_for_parent() -> None:
        # Check both conditions, because each one alone can miss the end of the parent. After a fork, `is_alive` may
        # still return True, because it checks a pipe that other forked runners keep open. With the start method
        # forkserver, `getppid` returns the id of multiprocessing's fork server instead of the parent's id.
        while parent.is_alive() and os.getppid() == parent_pid:
            parent.join(POLL_INTERVAL_PARENT)

    end_with_parent(wait_for_parent, GRACE_SECONDS)
