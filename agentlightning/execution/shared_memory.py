"""SharedMemoryExecutionStrategy: runs the algorithm and the runners in threads of one process, with a shared store.

This strategy is the easiest to debug, and it is fast enough for agents that spend most of their time waiting for I/O.
However, an agent that crashes the process or calls `os._exit` ends the whole run.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Final

from ..concurrency import run_in_thread
from ..store import LightningStore
from .base import AlgorithmTask, ExecutionStrategy, OpenStore, RunnerTask, run_together, run_until_complete

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 15.0
"""Time in seconds that runners are given to stop. This is normally long enough for their rollouts to finish. A runner
that has not stopped by then is left running in its thread."""


class SharedMemoryExecutionStrategy(ExecutionStrategy):
    """Runs the algorithm and `n_runners` runners in the current process, with each runner in its own thread."""

    def __init__(self, *, n_runners: int | None = None, graceful_timeout: float = GRACE_SECONDS) -> None:
        self._n_runners = n_runners
        self._grace_seconds = graceful_timeout

    def execute(
        self, algorithm: AlgorithmTask, runner: RunnerTask, open_store: OpenStore, *, n_runners: int = 1
    ) -> Any:
        return run_until_complete(lambda: self._run(algorithm, runner, open_store, self._n_runners or n_runners))

    async def _run(self, algorithm: AlgorithmTask, runner: RunnerTask, open_store: OpenStore, count: int) -> Any:
        async with open_store() as store:
            return await run_together(algorithm, store, lambda: self._run_runners(runner, store, count))

    async def _run_runners(self, runner: RunnerTask, store: LightningStore, count: int) -> None:
        stop = threading.Event()
        threads = [_start(runner, store, worker, stop) for worker in range(count)]
        try:
            ended, _ = await asyncio.wait(threads, return_when=asyncio.FIRST_EXCEPTION)
            for thread in ended:
                thread.result()
        finally:
            stop.set()
            ended, running = await asyncio.wait(threads, timeout=self._grace_seconds)
            await asyncio.gather(*ended, return_exceptions=True)  # retrieves errors, so that asyncio does not log them
            if running:
                logger.warning("A runner did not stop within %g s; its thread is left running.", self._grace_seconds)


def _start(runner: RunnerTask, store: LightningStore, worker: int, stop: threading.Event) -> asyncio.Task[None]:
    """Run a runner in a new thread with a new event loop."""
    work = run_in_thread(lambda: asyncio.run(runner(store, worker, stop)), name=f"runner-{worker}")
    return asyncio.create_task(work)
