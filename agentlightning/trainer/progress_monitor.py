"""Monitor: watches the store while a run goes on, and tells the callbacks.

In a thread of its own, so that neither an algorithm that holds up its event loop nor a callback that takes its time
disturbs the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, Final

from ..store import LightningStore
from .callbacks import Callback, Progress
from .result import RunResult
from .run_statistics import Tally

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
RATE_SECONDS: Final = 20.0
"""The rate is that of the last so many seconds."""


class Monitor:
    """Between `start` and `end`."""

    def __init__(self, store: LightningStore, callbacks: Sequence[Callback]) -> None:
        self.tally = Tally(store)
        self._callbacks = callbacks
        self._began = time.monotonic()
        self._stop = Event()
        self._lately: deque[tuple[float, int]] = deque([(self._began, 0)])
        self._told: Progress | None = None
        # One thread for everything: callbacks are called one at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agl-monitor")

    def start(self, folder: Path) -> None:
        """Tell that it begins, and watch."""
        self._each(lambda callback: callback.on_start(folder))
        self._thread.submit(self._look_again)

    def metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Pass on what the algorithm tells."""
        copied = dict(values)
        self._thread.submit(self._each, lambda callback: callback.on_metrics(copied, step))

    async def finish(self) -> None:
        """Look a last time."""
        self._stop.set()
        await asyncio.wrap_future(self._thread.submit(self._look))

    def end(self, result: RunResult) -> None:
        """Tell that it is over."""
        self._each(lambda callback: callback.on_end(result))
        self._thread.shutdown(wait=False)

    def _look_again(self) -> None:
        began = time.monotonic()
        self._look()
        # On a large store a look takes longer, and is worth less.
        if not self._stop.wait(max(LOOK_SECONDS, 20 * (time.monotonic() - began))):
            self._thread.submit(self._look_again)

    def _look(self) -> None:
        try:
            progress = asyncio.run(self._progress())
        except Exception:
            logger.exception("The run's progress could not be read")
            return
        if self._is_news(progress):
            self._told = progress
            self._each(lambda callback: callback.on_progress(progress))

    async def _progress(self) -> Progress:
        await self.tally.catch_up()
        counts = await self.tally.counts()
        succeeded = counts.get("succeeded", 0)
        failed = counts.get("failed", 0) + counts.get("cancelled", 0)
        return Progress(
            seconds=time.monotonic() - self._began,
            queued=counts.get("queuing", 0) + counts.get("requeuing", 0),
            running=counts.get("preparing", 0) + counts.get("running", 0),
            succeeded=succeeded,
            failed=failed,
            mean_reward=self.tally.mean_reward,
            rate=self._rate(succeeded + failed),
        )

    def _rate(self, done: int) -> float:
        now = time.monotonic()
        if self._told is None:  # a resumed run has done some before
            self._lately = deque([(self._began, done)])
        self._lately.append((now, done))
        while len(self._lately) > 2 and now - self._lately[0][0] > RATE_SECONDS:
            self._lately.popleft()
        (since, before), (until, after) = self._lately[0], self._lately[-1]
        return max(0.0, (after - before) / (until - since)) if until > since else 0.0

    def _is_news(self, progress: Progress) -> bool:
        told = self._told
        return told is None or (told.queued, told.running, told.done) != (
            progress.queued,
            progress.running,
            progress.done,
        )

    def _each(self, tell: Callable[[Callback], None]) -> None:
        for callback in self._callbacks:
            try:
                tell(callback)
            except Exception:
                logger.exception("The callback %s failed", type(callback).__name__)
