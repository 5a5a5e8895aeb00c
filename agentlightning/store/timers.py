"""The background service that gives up attempts whose deadline has passed, with or without traffic."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..errors import StoreUnavailable

logger = logging.getLogger(__name__)

INTERVAL = 0.25
"""Seconds between looks at the deadlines; one is found by an indexed query of some microseconds."""


class Timers:
    """Calls `run_once` again and again, in a thread of its own, until stopped."""

    def __init__(self, run_once: Callable[[], Awaitable[int]], interval: float = INTERVAL) -> None:
        self._run_once = run_once
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agl-timers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the service, and wait until it has ended."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while not self._stop.wait(self._interval):
                runner.run(self._look())

    async def _look(self) -> None:
        try:
            with suppress(StoreUnavailable):  # the disk is away; the deadlines wait in the rows
                await self._run_once()
        except Exception:
            logger.exception("Looking at the deadlines failed; trying again")
