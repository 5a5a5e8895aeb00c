"""SharedMemoryExecutionStrategy: algorithm and runners as threads of this process, around one store in it.

The easiest to debug, and enough for agents that mostly wait. An agent that exits the process ends the whole run.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Final

from ..store import LightningStore
from .base import AlgorithmSide, ExecutionStrategy, OpenStore, RunnerSide
from .coordinator import complain_when_rollouts_wait, until_algorithm_ends
from .signals import run_to_the_end

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 15.0
"""How long a runner may take to stop: more than its own draining and giving back. Its thread is then left behind."""


class SharedMemoryExecutionStrategy(ExecutionStrategy):
    """Runs everything in this process: the algorithm here, `n_runners` runners in threads."""

    def __init__(self, *, n_runners: int | None = None, graceful_timeout: float = GRACE_SECONDS) -> None:
        self._n_runners = n_runners
        self._grace = graceful_timeout

    def execute(
        self,
        algorithm: AlgorithmSide,
        runner: RunnerSide,
        open_store: OpenStore,
        *,
        n_runners: int = 1,
    ) -> Any:
        async def run() -> Any:
            async with open_store() as store:
                threads = [_RunnerThread(runner, store, n) for n in range(self._n_runners or n_runners)]
                try:
                    return await until_algorithm_ends(algorithm, store, lambda: _run_all(threads, store))
                finally:
                    await self._stop(threads)

        return run_to_the_end(run)

    async def _stop(self, threads: list[_RunnerThread]) -> None:
        for thread in threads:
            thread.stop.set()
        started = [thread.ended for thread in threads if thread.started]
        if started and (await asyncio.wait(started, timeout=self._grace))[1]:
            logger.warning("A runner has not stopped within %g s; its thread is left behind.", self._grace)


async def _run_all(threads: list[_RunnerThread], store: LightningStore) -> None:
    for thread in threads:
        thread.start()
    ended = [thread.ended for thread in threads]
    await asyncio.wait(ended, return_when=asyncio.FIRST_EXCEPTION)
    for future in ended:
        if future.done():
            future.result()
    await complain_when_rollouts_wait(store)


class _RunnerThread:
    """A runner in a thread, with an event loop of its own."""

    def __init__(self, runner: RunnerSide, store: LightningStore, worker: int) -> None:
        self.stop = threading.Event()
        self.started = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._runner = runner
        self._store = store
        self._worker = worker

    def start(self) -> None:
        """Begin; the result or error goes to `ended`."""
        self.started = True
        threading.Thread(target=self._run, name=f"runner-{self._worker}", daemon=True).start()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._runner(self._store, self._worker, self.stop))
        except BaseException as raised:
            error = raised
        self._tell(error)

    def _tell(self, error: BaseException | None) -> None:
        def settle() -> None:
            if self.ended.done():
                return
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
                self.ended.exception()  # looked at, whoever awaits it or not

        loop = self.ended.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle)
