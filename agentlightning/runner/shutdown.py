"""Requests to stop a runner: by the caller's event, or by SIGTERM."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from ..concurrency import sigterm_handler
from .base import StopEvent

POLL_INTERVAL_STOP_EVENT: Final = 0.05
"""Events of threads, processes and event loops have no common way to wait for them, so they are polled."""


class StopRequest:
    """A request to stop, with its reason, once it has been made."""

    def __init__(self) -> None:
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_terminated = False
        """True when the reason is SIGTERM."""

    @property
    def is_set(self) -> bool:
        """True once the runner is to stop."""
        return self.reason.done()

    def set(self, reason: str) -> None:
        """Request the stop; the first reason is kept."""
        if not self.is_set:
            self.reason.set_result(reason)

    def terminate(self) -> None:
        """Request the stop because of SIGTERM."""
        self.is_terminated = True
        self.set("SIGTERM")


@contextmanager
def stop_request(event: StopEvent | None) -> Generator[StopRequest]:
    """Watch `event` and SIGTERM for the length of the block; either one sets the request."""
    request = StopRequest()
    watch = asyncio.create_task(_watch(event, request)) if event is not None else None
    try:
        with sigterm_handler(request.terminate):
            yield request
    finally:
        if watch is not None:
            watch.cancel()


async def _watch(event: StopEvent, request: StopRequest) -> None:
    while not event.is_set():  # noqa: ASYNC110 - see POLL_INTERVAL_STOP_EVENT
        await asyncio.sleep(POLL_INTERVAL_STOP_EVENT)
    request.set("its stop event was set")
