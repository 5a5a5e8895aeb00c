"""Trainer: builds the parts of a run, wires them, runs them, and says what came of it."""

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
from ..runner import LitAgentRunner, Runner
from ..store import LightningStore, SqliteLightningStore, open_store
from ..tracer import LightningTracer, Tracer
from ..types import Dataset, Hook, NamedResources, ResourcesUpdate
from .callbacks import Callback, JsonLines
from .components import build, imported
from .display import Display
from .result import RunResult
from .run_coordinator import AlgorithmSide, RunnerSide
from .run_folder import RESUME_VARIABLE, RUNS, RunFolder, new_folder, unfinished
from .run_log import RunLog

DRAIN_SECONDS = 5.0
"""What a runner still holds when the algorithm is done, nobody waits for."""


class Trainer:
    """Runs an algorithm and `n_runners` runners of an agent until the algorithm is done.

    Each component may be an instance, a class, a factory, an import path, or a dict with "type". The defaults: a
    SQLite store in the run's folder, `LightningTracer`, and the client-server strategy, "cs" (`strategy="shm"` keeps
    everything in this process). A run's folder is `runs/NAME`, or `run_dir`. Each runner carries out up to
    `max_concurrency` rollouts at once; `max_rollouts` is how many it does in all. `port` is where the store is served.
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
                raise ValueError(f"{name} is at least 1, not {number}")
        self.algorithm = _algorithm(algorithm)
        self.n_runners = n_runners
        self.max_rollouts = max_rollouts
        self.max_concurrency = max_concurrency
        self.initial_resources = _resources(initial_resources)
        self.tracer = build(LightningTracer if tracer is None else tracer, Tracer, what="tracer")
        self.adapter = build(TracerTraceToTriplet if adapter is None else adapter, TraceAdapter[Any], what="adapter")
        self.strategy = _strategy(strategy, port)
        self.llm_proxy = _llm_proxy(llm_proxy)
        self.hooks = [build(hook, Hook, what="hooks") for hook in _listed(hooks)]
        self.callbacks = [build(callback, Callback, what="callbacks") for callback in _listed(callbacks)]
        self.run_dir = run_dir
        self._runner = runner
        self._store = store
        self._progress = progress

    def fit(
        self,
        agent: LitAgent[Any] | Callable[..., Any],
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
        resume: bool = False,
    ) -> RunResult:
        """Run the algorithm on `agent` to its end.

        Raises what the algorithm or a runner raised. Raises `StoreInUse` when another trainer is at the store: runners
        would give one's tasks to the other's agent, so there is no way to share one; each trainer needs its own (on
        PostgreSQL, a schema). With `resume` it goes on where a run in the same folder, or else the latest unfinished
        one of this algorithm and agent, was stopped or killed: what was done is not done again.
        """
        strategy, n_runners = self.strategy, self.n_runners
        return self._fit(strategy, self.algorithm, n_runners, agent, train_dataset, val_dataset, resume=resume)

    def dev(
        self,
        agent: LitAgent[Any] | Callable[..., Any],
        train_dataset: Dataset[Any] | None = None,
        *,
        val_dataset: Dataset[Any] | None = None,
    ) -> RunResult:
        """Try everything in this one process, where a debugger sees it: one runner, in a thread.

        The algorithm has to be a `FastAlgorithm`; with none given to the trainer it is `Baseline`.
        """
        if not isinstance(self.algorithm, FastAlgorithm):
            raise TypeError(
                f"dev is for algorithms that are soon done, and {_name(self.algorithm)} is not a FastAlgorithm: give "
                "the trainer agl.Baseline(), or use fit with strategy='shm'"
            )
        strategy = SharedMemoryExecutionStrategy()
        return self._fit(strategy, self.algorithm, 1, agent, train_dataset, val_dataset, resume=False, live=False)

    def _fit(
        self,
        strategy: ExecutionStrategy,
        algorithm: Algorithm,
        n_runners: int,
        agent: LitAgent[Any] | Callable[..., Any],
        train_dataset: Dataset[Any] | None,
        val_dataset: Dataset[Any] | None,
        *,
        resume: bool,
        live: bool = True,
    ) -> RunResult:
        wrapped = as_agent(agent)
        _require_datasets(train_dataset=train_dataset, val_dataset=val_dataset)
        if strategy.role == "runner":
            strategy.execute(_nothing, self._runner_side(wrapped, RunLog(None), True), _no_store, n_runners=n_runners)
            return RunResult(name="runners")
        about = {"algorithm": _name(algorithm), "agent": _name(wrapped)}
        folder, resumed = self._folder(about, resume)
        folder.begin({**about, "n_runners": n_runners, "strategy": type(strategy).__name__, "resumed": resumed})
        side = AlgorithmSide(
            algorithm=algorithm,
            folder=folder,
            adapter=self.adapter,
            llm_proxy=self.llm_proxy,
            initial_resources=self.initial_resources,
            train_dataset=train_dataset,
            val_dataset=val_dataset,
            callbacks=[JsonLines(), *([Display(live=live)] if self._progress else []), *self.callbacks],
            resume=resumed,
        )
        with RunLog(folder.log) as log:
            runner = self._runner_side(wrapped, log, False)
            try:
                strategy.execute(side, runner, self._opening(folder), n_runners=n_runners)
            except KeyboardInterrupt:
                # Anew, without the event loop's frames: whoever pressed Ctrl-C wants to know how to go on.
                raise KeyboardInterrupt(f"to go on with it: agl resume {folder.path}") from None
            except Exception as error:
                side.blame(error)
                raise
        assert side.result is not None
        return side.result

    def _folder(self, about: dict[str, Any], resume: bool) -> tuple[RunFolder, bool]:
        """Where this run lies, and whether it goes on from an earlier one."""
        if named := os.environ.pop(RESUME_VARIABLE, None):
            return RunFolder(named), True
        if self.run_dir is not None:
            folder = RunFolder(self.run_dir)
            if folder.exists and not resume:
                raise FileExistsError(
                    f"{folder.path} holds a run already: pass resume=True to go on with it, or another run_dir"
                )
            return folder, folder.exists
        earlier = unfinished(about) if resume else None
        return (earlier, True) if earlier else (new_folder(about["algorithm"], RUNS), False)

    def _runner_side(self, agent: LitAgent[Any], log: RunLog, ends_with_run: bool) -> RunnerSide:
        return RunnerSide(self._runner_maker(), agent, self.hooks, log, ends_with_run)

    def _runner_maker(self) -> Callable[[], Runner[Any]]:
        offered = {
            "tracer": self.tracer,
            "max_rollouts": self.max_rollouts,
            "max_concurrency": self.max_concurrency,
            "drain_seconds": DRAIN_SECONDS,
        }
        given = LitAgentRunner[Any] if self._runner is None else self._runner
        return functools.partial(build, given, Runner[Any], what="runner", offered=offered)

    def _opening(self, folder: RunFolder) -> OpenStore:
        """How the store is opened; one that was given as an instance stays open."""
        given = self._store
        if given is None:
            return lambda: SqliteLightningStore(folder.database)
        if isinstance(given, LightningStore):
            kept = given
            return lambda: nullcontext(kept)
        if isinstance(given, str) and (":/" in given or given.endswith((":", ".db"))):
            return lambda: open_store(given)
        return lambda: build(given, LightningStore, what="store")


async def _nothing(store: LightningStore) -> None:
    """The algorithm runs elsewhere."""


def _no_store() -> AbstractAsyncContextManager[LightningStore]:
    raise AssertionError("runners reach the store over HTTP")


def _algorithm(given: Any) -> Algorithm:
    names = {"baseline": Baseline}
    if isinstance(given, str):
        given = names.get(given) or imported(given, "algorithm", names)
    if given is None or isinstance(given, (type, Mapping)) or _is_factory(given):
        return build(Baseline if given is None else given, Algorithm, what="algorithm", names=names)
    return as_algorithm(given)


def _is_factory(thing: Any) -> bool:
    """A function that asks for nothing can do nothing as an algorithm, so it makes one."""
    if isinstance(thing, Algorithm) or not callable(thing) or inspect.iscoroutinefunction(thing):
        return False
    return not set(inspect.signature(thing).parameters) & set(ARGUMENTS)


def _strategy(given: Any, port: int | None) -> ExecutionStrategy:
    names: dict[str, Callable[..., ExecutionStrategy]] = {
        "cs": functools.partial(ClientServerExecutionStrategy, server_port=port),
        "shm": SharedMemoryExecutionStrategy,
    }
    return build("cs" if given is None else given, ExecutionStrategy, what="strategy", names=names)


def _llm_proxy(given: Any) -> Any:
    if given is None:
        return None
    from ..llm_proxy import LLMProxy

    return build(given, LLMProxy, what="llm_proxy")


def _listed(given: Any) -> list[Any]:
    """One thing or several as a list."""
    return list(cast("Sequence[Any]", given)) if isinstance(given, (list, tuple)) else [given] if given else []


def _require_datasets(**datasets: Any) -> None:
    for name, dataset in datasets.items():
        kind = type(dataset).__name__
        is_one = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, Mapping)
        if dataset is not None and not is_one:
            raise TypeError(f"{name} is a list, or anything else with a length and items by number, not {kind}")


def _resources(given: Any) -> NamedResources | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise TypeError(f"initial_resources is a dict of resources by name, not {type(given).__name__}")
    return ResourcesUpdate.model_validate(
        {"resources_id": "", "create_time": 0, "update_time": 0, "version": 1, "resources": given}
    ).resources


def _name(thing: Any) -> str:
    return getattr(thing, "__name__", None) or type(thing).__name__
