"""The tasks that an execution strategy runs: RunCoordinator for the algorithm, and RunnerLauncher for each runner."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..algorithm import Algorithm, Journal
from ..algorithm.base import RunContext
from ..algorithm.function import FunctionAlgorithm
from ..algorithm.journal import journal_sessions
from ..concurrency import run_in_thread
from ..errors import StoreInUse, StoreUnavailable
from ..execution.client_server import requeue_stale_attempts
from ..litagent import LitAgent
from ..runner import Runner, StopEvent
from ..store import LightningStore
from ..types import Dataset, Hook, NamedResources, Rollout
from .callbacks import Callback
from .keyed_store import KeyedStore
from .progress_monitor import FINAL, ProgressMonitor, RunStatistics
from .result import RunResult
from .run_folder import RunFolder, RunLog
from .store_lock import StoreLock

logger = logging.getLogger(__name__)

Datasets = tuple[Dataset[Any] | None, Dataset[Any] | None]
"""The training dataset and the validation dataset. Either may be None."""

INITIAL: Final = "initial"
"""Resources id under which the trainer's `initial_resources` are saved in the store."""
POLL_INTERVAL_RUN_END: Final = 1.0


@dataclass
class RunnerLauncher:
    """Creates a runner and runs it in the process or thread that calls the launcher."""

    make_runner: Callable[[], Runner[Any]]
    agent: LitAgent[Any]
    hooks: Sequence[Hook]
    log: RunLog
    watch_run_end: bool
    """True if the runner was started separately from the algorithm and must therefore detect the end of the run."""
    started: float = field(default_factory=time.time)

    async def __call__(self, store: LightningStore, worker: int, stop: StopEvent) -> None:
        runner = self.make_runner()
        with self.log, runner.run_context(agent=self.agent, store=store, hooks=self.hooks, worker_id=worker):
            if not self.watch_run_end:
                await runner.iter(stop)
                return
            ended = asyncio.Event()
            watch = asyncio.create_task(_set_when_run_ends(store, self.started, ended))
            try:
                await runner.iter(ended)
            finally:
                watch.cancel()


@dataclass
class RunCoordinator:
    """Runs the algorithm and saves the result of the run."""

    algorithm: Algorithm
    folder: RunFolder
    adapter: Any
    llm_proxy: Any
    initial_resources: NamedResources | None
    datasets: Datasets
    callbacks: Sequence[Callback]
    resume: bool
    started: float = field(default_factory=time.time)
    result: RunResult | None = None

    async def acquire(self, store: LightningStore) -> None:
        """Lock the store. Raises `StoreInUse` if another trainer is using it."""
        try:
            self._lock = await StoreLock.acquire(store, self.folder.name)
        except StoreInUse:
            if not self.resume:
                self.folder.discard()
            raise

    async def __call__(self, store: LightningStore) -> Any:
        return await self._lock.run_while_held(self._run(store))

    def record_failure(self, error: Exception) -> None:
        """Save an error that occurred outside the algorithm and stopped it, or prevented it from starting."""
        result = self.result or RunResult(name=self.folder.name, folder=self.folder.path, status="stopped")
        if result.status == "stopped":
            self.result = result.model_copy(update={"status": "failed", "error": _describe(error)})
            self.folder.end(self.result)

    async def _run(self, store: LightningStore) -> Any:
        keyed = KeyedStore(store)
        if self.resume:
            await requeue_stale_attempts(store, before=self.started)
            await keyed.load_keys()
        journal = await Journal.open(store, self.folder.name)
        monitor = ProgressMonitor(store, self.callbacks)
        await self._bind_algorithm(keyed, journal, monitor)
        monitor.start(self.folder.path)
        returned, error = None, None
        try:
            returned = await self._run_with_proxy(store)
            return returned
        except BaseException as raised:
            error = raised
            raise
        finally:
            await monitor.finish()
            self.result = await self._create_result(store, monitor.statistics, returned, error)
            self.folder.end(self.result)
            monitor.end(self.result)
            try:
                await journal.end("failed" if error else "succeeded", _describe(error) if error else None)
            except StoreUnavailable as unavailable:  # must not hide the error that ended the run
                logger.error("The end of the run could not be stored: %s", unavailable)

    async def _bind_algorithm(self, store: LightningStore, journal: Journal, monitor: ProgressMonitor) -> None:
        initial = self.initial_resources
        if initial and not (self.resume and await store.get_resources_by_id(INITIAL)):
            await store.update_resources(INITIAL, initial)
        self.algorithm.bind(RunContext(store, self.adapter, self.llm_proxy, initial, journal, monitor.log_metrics))

    async def _run_with_proxy(self, store: LightningStore) -> Any:
        if self.llm_proxy is None:
            return await self._run_algorithm()
        if self.llm_proxy.store is None:
            self.llm_proxy.store = store
        async with self.llm_proxy:
            return await self._run_algorithm()

    async def _run_algorithm(self) -> Any:
        algorithm, datasets = self.algorithm, self.datasets
        is_async = isinstance(algorithm, FunctionAlgorithm) and algorithm.is_async
        if is_async or inspect.iscoroutinefunction(algorithm.run):
            return await algorithm.run(*datasets)
        # A synchronous algorithm would block the event loop, so run it in a separate thread. If the algorithm hangs,
        # this thread does not delay the exit after Ctrl-C.
        returned = await run_in_thread(algorithm.run, *datasets, name="agl-algorithm")
        return await returned if inspect.isawaitable(returned) else returned

    async def _create_result(
        self, store: LightningStore, statistics: RunStatistics, returned: Any, error: BaseException | None
    ) -> RunResult:
        status = _status(error)
        result = RunResult(
            name=self.folder.name,
            folder=self.folder.path,
            status=status,
            history=statistics.history(),
            mean_reward=statistics.mean_reward,
            counts=await statistics.counts(),
            failures=statistics.failures(),
            seconds=time.time() - self.started,
            report=self.algorithm.report() if error is None else {},
            returned=returned,
            error=None if error is None or status == "stopped" else _describe(error),
        )
        await self._add_best_resources(store, result)
        return result

    async def _add_best_resources(self, store: LightningStore, result: RunResult) -> None:
        rewarded = [each for each in result.history if each.mean_reward is not None and each.resources_id]
        if chosen := self.algorithm.best_resources:
            result.best_resources_id, result.best_resources = chosen.resources_id, chosen.resources
        elif best := max(rewarded, key=lambda each: each.mean_reward or 0.0, default=None):
            found = await store.get_resources_by_id(best.resources_id or "", best.version)
            result.best_resources_id, result.best_resources = best.resources_id, found.resources if found else None


async def _set_when_run_ends(store: LightningStore, since: float, ended: asyncio.Event) -> None:
    """Set `ended` once the latest run has ended, ignoring runs that ended before `since` (a Unix time).

    A run that was killed does not count as ended, because it may be resumed.
    """
    while True:
        try:
            latest = await _latest_session(store, since)
            if latest is not None and latest.status in FINAL:
                break
            if latest is not None:
                await store.wait_for_rollouts([latest.rollout_id])
        except StoreUnavailable:
            latest = None  # the store is unreachable; the runner logs this
        if latest is None:
            await asyncio.sleep(POLL_INTERVAL_RUN_END)
    logger.info("The run has ended (%s).", latest.status)
    ended.set()


async def _latest_session(store: LightningStore, since: float) -> Rollout | None:
    sessions = [each for each in await journal_sessions(store) if (each.end_time or math.inf) >= since]
    return max(sessions, key=lambda session: session.start_time, default=None)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _status(error: BaseException | None) -> Any:
    if error is None:
        return "finished"
    return "stopped" if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)) else "failed"
