"""Signs of life: a thread with an event loop of its own, which no agent can hold up."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from ..errors import AgentLightningError

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 5.0
"""How long a beat may take at least: less than the store's 30 seconds, more than a busy store needs."""

LOOK_SECONDS: Final = 1.0
"""How often it looks for news: a rollout is seen to run within this time, and short ones cost no beat of their own."""

JOIN_SECONDS: Final = 2.0
"""Longer than a beat takes to be cancelled; a thread that is stuck all the same is a daemon."""


class Heartbeat:
    """Calls `beat` every `interval` seconds, from `start` to `stop`; sooner when there is `news`.

    A beat that takes longer is given up for the next one. What a beat raises is logged, once in a
    row.
    """

    def __init__(
        self, beat: Callable[[], Awaitable[None]], interval: float, *, news: Callable[[], bool], name: str
    ) -> None:
        self._beat = beat
        self._news = news
        self._interval = interval
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._failing = False

    def start(self) -> None:
        """Begin, with a beat at once."""
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def stop(self) -> None:
        """Stop, in the middle of a beat if need be."""
        if self._loop is None:
            return
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop or asyncio.new_event_loop()) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        beats = asyncio.create_task(self._beats())
        await self._stop.wait()
        beats.cancel()

    async def _beats(self) -> None:
        while True:
            due = time.monotonic() + self._interval
            await self._one()
            await self._pause(due)

    async def _pause(self, due: float) -> None:
        while (left := due - time.monotonic()) > 0:
            await asyncio.sleep(min(left, LOOK_SECONDS))
            if self._news():
                return

    async def _one(self) -> None:
        try:
            async with asyncio.timeout(max(self._interval, PATIENCE_SECONDS)):
                await self._beat()
        except Exception as error:
            self._log(error)
        else:
            self._failing = False

    def _log(self, error: Exception) -> None:
        if self._failing:
            return
        self._failing = True
        expected = isinstance(error, (AgentLightningError, OSError))
        what = str(error) or type(error).__name__
        logger.warning("A heartbeat failed: %s", what, exc_info=None if expected else error)
