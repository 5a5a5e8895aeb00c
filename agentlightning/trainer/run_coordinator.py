"""The two sides of a run, as execution strategies want them: two callables that know each other only by the store."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from ..algorithm import Algorithm, Journal
from ..algorithm.base import RunContext
from ..algorithm.function import FunctionAlgorithm
from ..algorithm.journal import journal_sessions
from ..errors import StoreInUse, StoreUnavailable
from ..litagent import LitAgent
from ..runner import Runner, StopEvent
from ..store import LightningStore
from ..types import Dataset, Hook, NamedResources, Rollout
from .callbacks import Callback
from .keyed_store import KeyedStore
from .progress_monitor import Monitor
from .result import RunResult
from .run_folder import RunFolder
from .run_log import RunLog
from .run_statistics import ENDED
from .stale_attempts import requeue_orphans
from .store_lock import Hold

logger = logging.getLogger(__name__)

INITIAL: Final = "initial"
"""The id of the resources that a trainer was given."""
END_LOOK_SECONDS: Final = 1.0


@dataclass
class RunnerSide:
    """One runner: made anew in each process or thread."""

    make_runner: Callable[[], Runner[Any]]
    agent: LitAgent[Any]
    hooks: Sequence[Hook]
    log: RunLog
    ends_with_run: bool
    """Nobody stops it: it is to see for itself when the run is over."""
    began: float = field(default_factory=time.time)

    async def __call__(self, store: LightningStore, worker: int, stop: StopEvent) -> None:
        runner = self.make_runner()
        with self.log, runner.run_context(agent=self.agent, store=store, hooks=self.hooks, worker_id=worker):
            if not self.ends_with_run:
                await runner.iter(stop)
                return
            over = asyncio.Event()
            watching = asyncio.create_task(_set_when_over(store, self.began, over))
            try:
                await runner.iter(over)
            finally:
                watching.cancel()


async def _set_when_over(store: LightningStore, since: float, over: asyncio.Event) -> None:
    """Set `over` when a run has ended since then; one that was killed and is resumed has not."""
    while True:
        try:
            latest = await _latest_sitting(store, since)
            if latest is not None and latest.status in ENDED:
                break
            if latest is not None:
                await store.wait_for_rollouts([latest.rollout_id])
        except StoreUnavailable:
            latest = None  # the algorithm's machine is away; the runner itself says so
        if latest is None:
            await asyncio.sleep(END_LOOK_SECONDS)
    logger.info("The run is over (%s).", latest.status)
    over.set()


async def _latest_sitting(store: LightningStore, since: float) -> Rollout | None:
    held = [each for each in await journal_sessions(store) if (each.end_time or math.inf) >= since]
    return max(held, key=lambda each: each.start_time, default=None)


@dataclass
class AlgorithmSide:
    """The algorithm with all that it is given, and what came of it."""

    algorithm: Algorithm
    folder: RunFolder
    adapter: Any
    llm_proxy: Any
    initial_resources: NamedResources | None
    train_dataset: Dataset[Any] | None
    val_dataset: Dataset[Any] | None
    callbacks: Sequence[Callback]
    resume: bool
    began: float = field(default_factory=time.time)
    result: RunResult | None = None

    async def admit(self, store: LightningStore) -> None:
        """Take hold of the store. Raises `StoreInUse`."""
        try:
            self._hold = await Hold.take(store, self.folder.name)
        except StoreInUse:
            self.folder.forget(unless=self.resume)
            raise

    async def __call__(self, store: LightningStore) -> Any:
        async with self._hold as hold:
            return await hold.while_held(self._sitting(store))

    async def _sitting(self, store: LightningStore) -> Any:
        keyed = KeyedStore(store)
        if self.resume:
            await requeue_orphans(store, before=self.began)
            await keyed.recall()
        journal = await Journal.open(store, self.folder.name)
        monitor = Monitor(store, self.callbacks)
        await self._surround(keyed, journal, monitor)
        monitor.start(self.folder.path)
        try:
            returned = await self._run(store)
        except BaseException as error:
            await self._end(store, journal, monitor, error)
            raise
        await self._end(store, journal, monitor, None, returned)
        return returned

    def blame(self, error: Exception) -> None:
        """Say in the result that a crash has ended the run, where the algorithm was only stopped or had not begun."""
        result = self.result or RunResult(name=self.folder.name, folder=self.folder.path, status="stopped")
        if result.status == "stopped":
            told = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            self.result = result.model_copy(update=told)
            self.folder.end(self.result)

    async def _surround(self, store: LightningStore, journal: Journal, monitor: Monitor) -> None:
        initial = self.initial_resources
        if initial and not (self.resume and await store.get_resources_by_id(INITIAL)):
            await store.update_resources(INITIAL, initial)
        self.algorithm.bind(
            RunContext(
                store=store,
                adapter=self.adapter,
                llm_proxy=self.llm_proxy,
                initial_resources=initial,
                journal=journal,
                log_metrics=monitor.metrics,
            )
        )

    async def _run(self, store: LightningStore) -> Any:
        if self.llm_proxy is None:
            return await run_algorithm(self.algorithm, self.train_dataset, self.val_dataset)
        if getattr(self.llm_proxy, "store", store) is None:
            self.llm_proxy.store = store
        await _awaited(self.llm_proxy.start())
        try:
            return await run_algorithm(self.algorithm, self.train_dataset, self.val_dataset)
        finally:
            await _awaited(self.llm_proxy.stop())

    async def _end(
        self,
        store: LightningStore,
        journal: Journal,
        monitor: Monitor,
        error: BaseException | None,
        returned: Any = None,
    ) -> None:
        await monitor.finish()
        self.result = await self._summed_up(store, monitor, error, returned)
        self.folder.end(self.result)
        monitor.end(self.result)
        reason = None if error is None else f"{type(error).__name__}: {error}"
        await journal.end("succeeded" if error is None else "failed", reason)

    async def _summed_up(
        self, store: LightningStore, monitor: Monitor, error: BaseException | None, returned: Any
    ) -> RunResult:
        history = monitor.tally.history()
        result = RunResult(
            name=self.folder.name,
            folder=self.folder.path,
            status=_status(error),
            history=history,
            mean_reward=monitor.tally.mean_reward,
            counts=await monitor.tally.counts(),
            failures=monitor.tally.failures(),
            seconds=time.time() - self.began,
            report=self.algorithm.report() if error is None else {},
            returned=returned,
            error=None if error is None or _status(error) == "stopped" else f"{type(error).__name__}: {error}",
        )
        result.best_resources_id, result.best_resources = await self._best(store, result)
        return result

    async def _best(self, store: LightningStore, result: RunResult) -> tuple[str | None, NamedResources | None]:
        if best := self.algorithm.best_resources:
            return best.resources_id, best.resources
        rewarded = [tried for tried in result.history if tried.mean_reward is not None and tried.resources_id]
        if not rewarded:
            return None, None
        top = max(rewarded, key=lambda tried: tried.mean_reward or 0.0)
        found = await store.get_resources_by_id(top.resources_id or "", top.version)
        return top.resources_id, found.resources if found else None


async def run_algorithm(
    algorithm: Algorithm, train_dataset: Dataset[Any] | None, val_dataset: Dataset[Any] | None
) -> Any:
    """What `run` returns; one that is not async runs in a thread, so that it may block."""
    if inspect.iscoroutinefunction(algorithm.run) or (isinstance(algorithm, FunctionAlgorithm) and algorithm.is_async):
        return await algorithm.run(train_dataset, val_dataset)
    return await _awaited(await _in_thread(lambda: algorithm.run(train_dataset, val_dataset)))


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def _in_thread(function: Callable[[], Any]) -> Any:
    # A daemon thread, not the loop's pool: an algorithm that hangs must not hold up the end after a Ctrl-C.
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result(value) if error is None else ended.set_exception(error)

    def run() -> None:
        value, error = None, None
        try:
            value = function()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            ended.get_loop().call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="agl-algorithm", daemon=True).start()
    return await ended


def _status(error: BaseException | None) -> Any:
    if error is None:
        return "finished"
    return "stopped" if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)) else "failed"
