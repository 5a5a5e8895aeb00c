"""SharedMemoryExecutionStrategy: algorithm and runners in threads of this process, with one store in it.

The easiest strategy to debug, and fast enough for agents that mostly wait. An agent that exits the process ends the
whole run.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

from ..concurrency import run_in_thread
from ..store import LightningStore
from .base import (
    AlgorithmTask,
    ExecutionStrategy,
    OpenStore,
    RunnerTask,
    fail_when_rollouts_wait,
    run_until_algorithm_ends,
    run_until_complete,
)

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 15.0
"""Time for a runner to stop: longer than its own draining and reporting. Its thread is then left running."""


class SharedMemoryExecutionStrategy(ExecutionStrategy):
    """Runs everything in this process: the algorithm in this thread, `n_runners` runners in others."""

    def __init__(self, *, n_runners: int | None = None, graceful_timeout: float = GRACE_SECONDS) -> None:
        self._n_runners = n_runners
        self._grace_seconds = graceful_timeout

    def execute(
        self, algorithm: AlgorithmTask, runner: RunnerTask, open_store: OpenStore, *, n_runners: int = 1
    ) -> Any:
        return run_until_complete(lambda: self._run(algorithm, runner, open_store, self._n_runners or n_runners))

    async def _run(self, algorithm: AlgorithmTask, runner: RunnerTask, open_store: OpenStore, count: int) -> Any:
        stop = threading.Event()
        threads: list[asyncio.Task[None]] = []

        async with open_store() as store:

            async def run_runners() -> None:
                threads.extend(_start(runner, store, worker, stop) for worker in range(count))
                await asyncio.wait(threads, return_when=asyncio.FIRST_EXCEPTION)
                for thread in threads:
                    if thread.done():
                        thread.result()
                await fail_when_rollouts_wait(store)

            try:
                return await run_until_algorithm_ends(algorithm, store, run_runners)
            finally:
                stop.set()
                await self._wait_for_end(threads)

    async def _wait_for_end(self, threads: Sequence[asyncio.Task[None]]) -> None:
        if not threads:
            return
        ended, running = await asyncio.wait(threads, timeout=self._grace_seconds)
        for thread in ended:
            if not thread.cancelled():
                thread.exception()  # marks it as retrieved
        if running:
            logger.warning("A runner has not stopped within %g s; its thread is left running.", self._grace_seconds)


def _start(runner: RunnerTask, store: LightningStore, worker: int, stop: threading.Event) -> asyncio.Task[None]:
    """Run a runner in a thread with an event loop of its own."""
    work = run_in_thread(lambda: asyncio.run(runner(store, worker, stop)), name=f"runner-{worker}")
    return asyncio.create_task(work)
