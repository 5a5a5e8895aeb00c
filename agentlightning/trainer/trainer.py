"""Trainer: builds the components of a run, runs them, and returns the result."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

from ..adapter import TraceAdapter, TracerTraceToTriplet
from ..algorithm import Algorithm, Baseline, FastAlgorithm, as_algorithm
from ..algorithm.function import ARGUMENTS
from ..execution import ClientServerExecutionStrategy, ExecutionStrategy, SharedMemoryExecutionStrategy
from ..execution.base import OpenStore
from ..litagent import LitAgent, as_agent
from ..litagent.function import name_of
from ..runner import LitAgentRunner, Runner
from ..store import LightningStore, SqliteLightningStore, open_store
from ..tracer import LightningTracer, Tracer
from ..types import Dataset, Hook, NamedResources, ResourcesUpdate
from .callbacks import Callback, JsonLines
from .components import build, resolve_name
from .display import Display
from .result import RunResult
from .run_coordinator import Datasets, RunCoordinator, RunnerLauncher
from .run_folder import RESUME_VARIABLE, RunFolder, RunLog, new_folder, unfinished

DRAIN_SECONDS = 5.0
"""Time in seconds that running rollouts are given to finish when a run ends.

This time is short because the algorithm has already ended and no longer uses their results.
"""


Agent = LitAgent[Any] | Callable[..., Any]


class Trainer:
    """Runs an algorithm, and `n_runners` runners that execute an agent, until the algorithm has ended.

    Each component may be an instance, a class, a factory, an import path, or a dict with a "type" and arguments. By
    default, the store is a SQLite database in the run's folder, the tracer is a `LightningTracer`, and the strategy is
    "cs" (client-server), which starts each runner in a separate process. `strategy="shm"` runs everything in this
    process. The run's folder is `run_dir`, by default `runs/NAME`. Each runner executes at most `max_concurrency`
    rollouts at a time and `max_rollouts` in total. `port` is the port of the store's server.
    """

    def __init__(
        self,
        *,
        algorithm: Any = None,
        n_runners: int = 1,
        max_rollouts: int | None = None,
        initial_resources: Mapping[str, Any] | None = None,
        tracer: Any = None,
        adapter: Any = None,
        store: Any = None,
        runner: Any = None,
        strategy: Any = None,
        port: int | None = None,
        llm_proxy: Any = None,
        hooks: Any = None,
        max_concurrency: int = 1,
        run_dir: str | Path | None = None,
        callbacks: Any = (),
        progress: bool = True,
    ) -> None:
        for name, number in {"n_runners": n_runners, "max_concurrency": max_concurrency}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        self.algorithm = _algorithm(algorithm)
        self.n_runners = n_runners
        self.max_rollouts = max_rollouts
        self.max_concurrency = max_concurrency
        self.initial_resources = _resources(initial_resources)
        self.tracer = build(tracer, Tracer, parameter="tracer", default=LightningTracer)
        self.adapter = build(adapter, TraceAdapter[Any], parameter="adapter", default=TracerTraceToTriplet)
        self.strategy = _strategy(strategy, port)
        self.llm_proxy = _llm_proxy(llm_proxy)
        self.hooks = [build(hook, Hook, parameter="hooks") for hook in _as_list(hooks)]
        self.callbacks = [build(callback, Callback, parameter="callbacks") for callback in _as_list(callbacks)]
        self.run_dir = run_dir
        self._runner = runner
        self._store = store
        self._progress = progress

    def fit(
        self,
        agent: Agent,
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
        resume: bool = False,
    ) -> RunResult:
        """Run the algorithm on `agent` until the algorithm has ended, and return the result.

        Raises any error from the algorithm or a runner, and `StoreInUse` if another trainer is using the store. Two
        trainers cannot share a store, because their runners would run each other's tasks with the wrong agent. Each
        trainer needs its own store (or its own schema in PostgreSQL).

        If `resume` is True, continues the run in `run_dir` or, if `run_dir` is None, the latest unfinished run with
        this algorithm and agent. Completed work is not repeated. If there is no such run, starts a new one.
        """
        return self._fit(self.strategy, agent, (train_dataset, val_dataset), self.n_runners, resume, live=True)

    def dev(
        self,
        agent: Agent,
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
    ) -> RunResult:
        """Run everything in this process, with one runner in a thread, so that you can use a debugger.

        The trainer's algorithm must be a `FastAlgorithm`, such as the default, `Baseline`.
        """
        if not isinstance(self.algorithm, FastAlgorithm):
            raise TypeError(
                f"dev needs a FastAlgorithm, and {name_of(self.algorithm)} is not one: use agl.Baseline() as the "
                "trainer's algorithm, or call fit on a trainer with strategy='shm'"
            )
        datasets = train_dataset, val_dataset
        return self._fit(SharedMemoryExecutionStrategy(), agent, datasets, n_runners=1, resume=False, live=False)

    def _fit(
        self, strategy: ExecutionStrategy, agent: Agent, datasets: Datasets, n_runners: int, resume: bool, *, live: bool
    ) -> RunResult:
        lit_agent = as_agent(agent)
        for name, dataset in zip(("train_dataset", "val_dataset"), datasets, strict=True):
            _check_dataset(name, dataset)
        if strategy.role == "runner":
            launcher = RunnerLauncher(self._make_runner, lit_agent, self.hooks, RunLog(None), watch_run_end=True)
            strategy.execute(_no_algorithm, launcher, _no_store, n_runners=n_runners)
            return RunResult(name="runners")
        settings = {"algorithm": name_of(self.algorithm), "agent": name_of(lit_agent)}
        folder, resumed = self._folder(settings, resume)
        folder.start({**settings, "n_runners": n_runners, "strategy": type(strategy).__name__, "resumed": resumed})
        coordinator = RunCoordinator(
            algorithm=self.algorithm,
            folder=folder,
            adapter=self.adapter,
            llm_proxy=self.llm_proxy,
            initial_resources=self.initial_resources,
            datasets=datasets,
            callbacks=[JsonLines(), *([Display(live=live)] if self._progress else []), *self.callbacks],
            resume=resumed,
        )
        with RunLog(folder.log) as log:
            launcher = RunnerLauncher(self._make_runner, lit_agent, self.hooks, log, watch_run_end=False)
            try:
                strategy.execute(coordinator, launcher, self._open_store(folder), n_runners=n_runners)
            except KeyboardInterrupt:
                # Raise a new exception, without the event loop's stack frames, to tell the user how to continue.
                raise KeyboardInterrupt(f"to continue: agl resume {folder.path}") from None
            except Exception as error:
                coordinator.record_failure(error)
                raise
        assert coordinator.result is not None
        return coordinator.result

    def _folder(self, settings: dict[str, Any], resume: bool) -> tuple[RunFolder, bool]:
        """Return the run's folder, and True if the folder contains an earlier run that is to be resumed."""
        if path := os.environ.pop(RESUME_VARIABLE, None):
            return RunFolder(path), True
        if self.run_dir is not None:
            folder = RunFolder(self.run_dir)
            if folder.exists and not resume:
                raise FileExistsError(
                    f"{folder.path} already contains a run: pass resume=True to continue it, or another run_dir"
                )
            return folder, folder.exists
        earlier = unfinished(settings) if resume else None
        return (earlier, True) if earlier else (new_folder(settings["algorithm"]), False)

    def _make_runner(self) -> Runner[Any]:
        defaults = {
            "tracer": self.tracer,
            "max_rollouts": self.max_rollouts,
            "max_concurrency": self.max_concurrency,
            "drain_seconds": DRAIN_SECONDS,
        }
        return build(self._runner, Runner[Any], parameter="runner", default=LitAgentRunner[Any], defaults=defaults)

    def _open_store(self, folder: RunFolder) -> OpenStore:
        """Return a function that opens the store. If the user passed a store instance, it is not closed afterwards."""
        given = self._store
        if given is None:
            return lambda: SqliteLightningStore(folder.database)
        if isinstance(given, LightningStore):
            return lambda: nullcontext(given)
        if isinstance(given, str) and (":/" in given or given.endswith((":", ".db"))):
            return lambda: open_store(given)
        return lambda: build(given, LightningStore, parameter="store")


async def _no_algorithm(store: LightningStore) -> None:
    """Do nothing: the algorithm runs in another process."""


def _no_store() -> AbstractAsyncContextManager[LightningStore]:
    raise AssertionError("runners connect to the store over HTTP")


def _algorithm(given: Any) -> Algorithm:
    names = {"baseline": Baseline}
    if isinstance(given, str):
        given = resolve_name(given, "algorithm", names)
    if given is None or isinstance(given, (type, Mapping)) or _is_factory(given):
        return build(given, Algorithm, parameter="algorithm", default=Baseline, names=names)
    return as_algorithm(given)


def _is_factory(value: Any) -> bool:
    """Return True if `value` is a factory: a callable that takes none of the arguments of an algorithm function."""
    if isinstance(value, Algorithm) or not callable(value) or inspect.iscoroutinefunction(value):
        return False
    return not set(inspect.signature(value).parameters) & set(ARGUMENTS)


def _strategy(given: Any, port: int | None) -> ExecutionStrategy:
    names: dict[str, Callable[..., ExecutionStrategy]] = {
        "cs": functools.partial(ClientServerExecutionStrategy, server_port=port),
        "shm": SharedMemoryExecutionStrategy,
    }
    return build(given, ExecutionStrategy, parameter="strategy", default="cs", names=names)


def _llm_proxy(given: Any) -> Any:
    if given is None:
        return None
    from ..llm_proxy import LLMProxy

    return build(given, LLMProxy, parameter="llm_proxy")


def _as_list(given: Any) -> list[Any]:
    return list(cast("Sequence[Any]", given)) if isinstance(given, (list, tuple)) else [given] if given else []


def _check_dataset(name: str, dataset: Any) -> None:
    kind = type(dataset).__name__
    is_valid = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, Mapping)
    if dataset is not None and not is_valid:
        raise TypeError(f"{name} must be a list or support len() and indexing; got a {kind}")


def _resources(given: Any) -> NamedResources | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise TypeError(f"initial_resources must be a dict of resources by name, not a {type(given).__name__}")
    return ResourcesUpdate.model_validate(
        {"resources_id": "", "create_time": 0, "update_time": 0, "version": 1, "resources": given}
    ).resources
