"""ProgressMonitor: reads a run's progress from the store and calls the callbacks.

It works in a thread of its own, so that an algorithm that blocks its event loop and a slow callback do not affect each
other.
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
from .callbacks import Callback, RunProgress
from .result import RunResult
from .run_statistics import RunStatistics

logger = logging.getLogger(__name__)

POLL_INTERVAL_PROGRESS: Final = 1.0
RATE_WINDOW: Final = 20.0
"""Seconds over which the rate is measured."""


class ProgressMonitor:
    """Monitors a run between `start` and `end`."""

    def __init__(self, store: LightningStore, callbacks: Sequence[Callback]) -> None:
        self.statistics = RunStatistics(store)
        self._callbacks = callbacks
        self._start = time.monotonic()
        self._stop = Event()
        self._samples: deque[tuple[float, int]] = deque()
        """Times and numbers of completed rollouts within the last `RATE_WINDOW`."""
        self._last: RunProgress | None = None
        # A single thread, so that callbacks are called one at a time.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="agl-monitor")

    def start(self, folder: Path) -> None:
        """Announce the start and begin to poll."""
        self._call_each(lambda callback: callback.on_start(folder))
        self._executor.submit(self._poll)

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Pass metrics of the algorithm to the callbacks."""
        copied = dict(values)
        self._executor.submit(self._call_each, lambda callback: callback.on_metrics(copied, step))

    async def finish(self) -> None:
        """Stop to poll, and read the progress for the last time."""
        self._stop.set()
        await asyncio.wrap_future(self._executor.submit(self._read_progress))

    def end(self, result: RunResult) -> None:
        """Announce the end."""
        self._call_each(lambda callback: callback.on_end(result))
        self._executor.shutdown(wait=False)

    def _poll(self) -> None:
        start = time.monotonic()
        self._read_progress()
        # On a large store a poll takes longer, and changes less.
        if not self._stop.wait(max(POLL_INTERVAL_PROGRESS, 20 * (time.monotonic() - start))):
            self._executor.submit(self._poll)

    def _read_progress(self) -> None:
        try:
            progress = asyncio.run(self._progress())
        except Exception:
            logger.exception("The run's progress could not be read")
            return
        if self._last is None or _counts(self._last) != _counts(progress):
            self._last = progress
            self._call_each(lambda callback: callback.on_progress(progress))

    async def _progress(self) -> RunProgress:
        await self.statistics.update()
        counts = await self.statistics.counts()
        succeeded = counts.get("succeeded", 0)
        failed = counts.get("failed", 0) + counts.get("cancelled", 0)
        return RunProgress(
            seconds=time.monotonic() - self._start,
            queued=counts.get("queuing", 0) + counts.get("requeuing", 0),
            running=counts.get("preparing", 0) + counts.get("running", 0),
            succeeded=succeeded,
            failed=failed,
            mean_reward=self.statistics.mean_reward,
            rate=self._rate(succeeded + failed),
        )

    def _rate(self, done: int) -> float:
        now = time.monotonic()
        if not self._samples:  # a resumed run has completed rollouts before its start
            self._samples.append((self._start, done))
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > RATE_WINDOW:
            self._samples.popleft()
        since, before = self._samples[0]
        return max(0.0, (done - before) / (now - since)) if now > since else 0.0

    def _call_each(self, call: Callable[[Callback], None]) -> None:
        for callback in self._callbacks:
            try:
                call(callback)
            except Exception:
                logger.exception("The callback %s failed", type(callback).__name__)


def _counts(progress: RunProgress) -> tuple[int, int, int]:
    return progress.queued, progress.running, progress.done
