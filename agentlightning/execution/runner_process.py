"""A runner's process, from the inside: it runs one runner, tells how that ended, and ends when its parent does."""

from __future__ import annotations

import asyncio
import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, ClassVar, Final

import cloudpickle

from ..store import LightningStoreClient
from .base import RunnerSide

LOOK_SECONDS: Final = 0.5
"""How often a runner looks whether its parent is still there."""
GRACE_SECONDS: Final = 2.0
"""How long a runner without a parent may take to stop."""


@dataclass(frozen=True)
class Job:
    """What a runner's process is to do. Can be handed to a forked process as it is, to a fresh one as `packed`."""

    runner: RunnerSide
    log_level: int | None = None
    """Of a fresh process; None leaves it silent."""

    def packed(self) -> bytes:
        """With everything it names, also what lives in `__main__`. Raises whatever cannot be pickled."""
        file = io.BytesIO()
        _Pickler(file).dump(Job(self.runner, _spoken_level()))
        return file.getvalue()


_reducers: Any = cloudpickle.Pickler.dispatch_table


def _reduced(code: types.CodeType) -> tuple[Any, ...]:
    make, arguments = _reducers[types.CodeType](code)
    return _made_in_file, (code.co_filename, make, arguments)


class _Pickler(cloudpickle.Pickler):
    """Code knows which file it comes from, so that tracebacks of a fresh process can be read."""

    dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: _reduced}, _reducers)


def _made_in_file(file: str, make: Callable[..., types.CodeType], arguments: tuple[Any, ...]) -> types.CodeType:
    return make(*arguments).replace(co_filename=file)


@dataclass(frozen=True)
class Crash:
    """An exception on its way to the parent process."""

    pickled: bytes | None
    summary: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Crash:
        """What can be told of `error`."""
        try:
            pickled = cloudpickle.dumps(error)
        except Exception:
            pickled = None
        return cls(pickled, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))

    def as_error(self) -> BaseException:
        """The exception, caused by the traceback it had where it was raised."""
        error: BaseException
        try:
            error = cloudpickle.loads(self.pickled) if self.pickled else RuntimeError(self.summary)
        except Exception:
            error = RuntimeError(self.summary)
        error.__cause__ = RunnerTraceback(self.traceback)
        return error


class RunnerTraceback(Exception):
    """Where in a runner's process an error was raised."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def work(job: Job | bytes, worker: int, url: str, report: Connection) -> None:
    """The whole life of a runner's process."""
    become_independent(GRACE_SECONDS)
    try:
        asyncio.run(_run(_unpacked(job), worker, url))
    except SystemExit as ending:
        raise SystemExit(ending.code) from None
    except BaseException as error:
        report.send(Crash.of(error))
        raise SystemExit(1) from None


async def _run(job: Job, worker: int, url: str) -> None:
    async with LightningStoreClient(url) as store:
        await job.runner(store, worker, threading.Event())


def _unpacked(job: Job | bytes) -> Job:
    if isinstance(job, Job):
        return job
    unpacked: Any = cloudpickle.loads(job)
    if unpacked.log_level:
        from ..logs import setup_logging

        setup_logging(unpacked.log_level)
    return unpacked


def _spoken_level() -> int | None:
    """From which level on the `agentlightning` loggers are heard by others than files; None where they are not."""
    logger = logging.getLogger("agentlightning")
    handlers = [handler for handler in logger.handlers if not isinstance(handler, logging.FileHandler)]
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        said = logging.LogRecord(logger.name, level, "", 0, "", None, None)
        if logger.isEnabledFor(level) and any(level >= each.level and each.filter(said) for each in handlers):
            return level
    return None


def become_independent(grace: float) -> None:
    """Hear no Ctrl-C of the terminal, which is the parent's to act on, and end when the parent does."""
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    when_parent_ends(lambda: _end(grace))


def when_parent_ends(then: Callable[[], None]) -> None:
    """Call `then`, in a thread, when the process that started this one is no more."""
    parent, first = multiprocessing.parent_process(), os.getppid()
    assert parent is not None

    def watch() -> None:
        # Both are asked: forked siblings hold the pipe behind `parent` open, and with a fork server the other process
        # is not the one that counts.
        while parent.is_alive() and os.getppid() == first:
            parent.join(LOOK_SECONDS)
        then()

    threading.Thread(target=watch, name="agl-parent-watch", daemon=True).start()


def _end(grace: float) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    kill_group(os.getpid())


def kill_group(pid: int) -> None:
    """Kill the process and what it has started, at once."""
    try:
        if sys.platform == "win32":
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:  # it has no group of its own yet
        os.kill(pid, signal.SIGTERM)
