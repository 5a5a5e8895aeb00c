"""Base class of algorithms. Algorithms and runners communicate only through the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ..adapter import TraceAdapter
from ..store import LightningStore
from ..types import Dataset, NamedResources, ResourcesUpdate, RolloutConfig
from .journal import Journal

T = TypeVar("T")

RETRY_LOST_RUNNERS: Final = RolloutConfig(max_attempts=3, retry_condition=["unresponsive"])
"""Config that runs a rollout up to three times if its runner stops responding.

A runner can be lost for reasons unrelated to the agent, so the first such loss should not make the rollout fail."""


@dataclass
class RunContext:
    """The objects that a run provides to its algorithm. None means that the run does not provide the object."""

    store: LightningStore | None = None
    adapter: TraceAdapter[Any] | None = None
    llm_proxy: Any = None
    initial_resources: NamedResources | None = None
    journal: Journal | None = None
    log_metrics: Callable[[Mapping[str, Any], int | None], None] | None = None


class Algorithm:
    """Base class: override `run` to enqueue tasks, wait for their rollouts, learn from the spans, and store resources.

    The return value of `run` becomes the `returned` field of the trainer's result. `run` may be sync or async; a sync
    `run` is called in its own thread.
    """

    _context = RunContext()

    best_resources: ResourcesUpdate | None = None
    """The best version of the resources. If None, the trainer chooses the version with the highest mean reward."""

    def run(
        self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None
    ) -> Awaitable[Any] | Any:
        """Run the algorithm until it is finished."""
        raise NotImplementedError(f"{type(self).__name__} does not define run; override it in your subclass")

    def report(self) -> dict[str, Any]:
        """Return the algorithm's findings as a JSON-serializable dict for the run's result. Called after `run`."""
        return {}

    def bind(self, context: RunContext) -> None:
        """Set the context of the run. The trainer calls this before `run`."""
        self._context = context

    def get_store(self) -> LightningStore:
        """Return the run's store. Runners claim their tasks from it."""
        return _require(self._context.store, "store")

    def get_adapter(self) -> TraceAdapter[Any]:
        """Return the trainer's `adapter`, which converts a rollout's spans into the data that the algorithm needs."""
        return _require(self._context.adapter, "adapter")

    def get_llm_proxy(self) -> Any:
        """Return the trainer's `llm_proxy`, or None."""
        return self._context.llm_proxy

    def get_initial_resources(self) -> NamedResources | None:
        """Return the trainer's `initial_resources`, or None."""
        return self._context.initial_resources

    def get_journal(self) -> Journal:
        """Return the journal of completed steps. A resumed run uses it to skip those steps."""
        return _require(self._context.journal, "journal")

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Send metrics to the run's callbacks and to the file `metrics.jsonl` in the run's folder."""
        if self._context.log_metrics is not None:
            self._context.log_metrics(values, step)


class FastAlgorithm(Algorithm):
    """Base class for algorithms that are fast enough for `Trainer.dev`, which accepts no others."""


def _require(value: T | None, name: str) -> T:
    if value is None:
        raise RuntimeError(f"the algorithm has no {name} yet: run it with Trainer.fit, which sets one")
    return value
