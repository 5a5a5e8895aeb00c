"""How a runner hears that it is to stop: an event of the caller's, or SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from .base import StopEvent

LOOK_SECONDS: Final = 0.05
"""Events of threads, processes and event loops have no way of waiting in common, so they are looked at."""

SIGTERM_EXIT: Final = 128 + signal.SIGTERM


class Stop:
    """Whether a runner is to stop, and why."""

    def __init__(self) -> None:
        self.asked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Its result is the reason."""
        self.terminated = False
        """The reason is SIGTERM."""

    @property
    def is_set(self) -> bool:
        """It is to stop."""
        return self.asked.done()

    def ask(self, reason: str) -> None:
        """Stop, if that was not asked for before."""
        if not self.asked.done():
            self.asked.set_result(reason)

    def terminate(self) -> None:
        """Stop because of SIGTERM."""
        self.terminated = True
        self.ask("SIGTERM")


@contextmanager
def listening(event: StopEvent | None) -> Generator[Stop]:
    """A `Stop` that `event` or SIGTERM sets."""
    stop = Stop()
    watch = asyncio.create_task(_watch(event, stop)) if event is not None else None
    try:
        with _sigterm(stop):
            yield stop
    finally:
        if watch is not None:
            watch.cancel()


async def _watch(event: StopEvent, stop: Stop) -> None:
    while not event.is_set():  # noqa: ASYNC110 - see LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
    stop.ask("its stop event was set")


@contextmanager
def _sigterm(stop: Stop) -> Generator[None]:
    # A handler that somebody else has put there stays: they know how they want to end.
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not ours:
        yield
        return
    loop = asyncio.get_running_loop()

    def terminate(*_: Any) -> None:
        if stop.terminated:
            raise SystemExit(SIGTERM_EXIT)
        loop.call_soon_threadsafe(stop.terminate)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
