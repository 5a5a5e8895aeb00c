"""The background services of a store: deadlines that fire with or without traffic, and tidying up."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from ..errors import StoreUnavailable

logger = logging.getLogger(__name__)

DEADLINES_SECONDS = 0.25
"""Between looks at the deadlines; one look is an indexed query of some microseconds."""
LEASE_SECONDS = 0.5
"""Between agreements of several servers on what time it is: as much as their clocks may differ."""
TIDY_SECONDS = 60.0


@dataclass
class Service:
    """Something done again and again: `run_once`, every so many seconds."""

    run_once: Callable[[], Awaitable[object]]
    seconds: float
    due: float = 0.0

    async def run_if_due(self) -> None:
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + self.seconds
        try:
            with suppress(StoreUnavailable):  # the disk is away; what is due waits in the rows
                await self.run_once()
        except Exception:
            logger.exception("A background service of the store failed; trying again")


class Timers:
    """Runs services in a thread of their own, until stopped."""

    def __init__(self, *services: Service) -> None:
        self._services = services
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agl-timers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the services, and wait until they have ended."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        pause = min(service.seconds for service in self._services)
        with asyncio.Runner() as runner:
            while not self._stop.wait(pause):
                runner.run(self._look())

    async def _look(self) -> None:
        for service in self._services:
            await service.run_if_due()
