"""Heartbeats in a thread with an event loop of its own, which no agent can block."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from ..concurrency import BackgroundTask
from ..errors import AgentLightningError

logger = logging.getLogger(__name__)

MIN_TIMEOUT: Final = 5.0
"""Shortest time limit of a heartbeat: less than the store's 30 seconds, more than a busy store needs."""

POLL_INTERVAL_CHANGES: Final = 1.0
"""A rollout is marked as running within this time; shorter ones need no heartbeat of their own."""

STOP_TIMEOUT: Final = 2.0
"""Longer than the cancellation of a heartbeat takes. A thread that is stuck longer is left as a daemon."""


class Heartbeat:
    """Calls `beat` every `interval` seconds between `start` and `stop`; earlier when `has_changes`.

    A heartbeat that takes too long is cancelled. Of several failures in a row the first is logged.
    """

    def __init__(
        self,
        beat: Callable[[], Awaitable[None]],
        interval: float,
        *,
        name: str,
        has_changes: Callable[[], bool] = lambda: False,
    ) -> None:
        self._beat = beat
        self._interval = interval
        self._has_changes = has_changes
        self._task = BackgroundTask(self._run, name=name)
        self._is_failing = False

    def start(self) -> None:
        """Start, with a heartbeat at once."""
        self._task.start()

    def stop(self) -> None:
        """Stop; cancel a heartbeat in progress."""
        self._task.stop(STOP_TIMEOUT)

    async def _run(self) -> None:
        while True:
            due = time.monotonic() + self._interval
            await self._beat_once()
            while (left := due - time.monotonic()) > 0:
                await asyncio.sleep(min(left, POLL_INTERVAL_CHANGES))
                if self._has_changes():
                    break

    async def _beat_once(self) -> None:
        try:
            async with asyncio.timeout(max(self._interval, MIN_TIMEOUT)):
                await self._beat()
        except Exception as error:
            if not self._is_failing:
                is_expected = isinstance(error, (AgentLightningError, OSError))
                message = str(error) or type(error).__name__
                logger.warning("A heartbeat failed: %s", message, exc_info=None if is_expected else error)
            self._is_failing = True
        else:
            self._is_failing = False
