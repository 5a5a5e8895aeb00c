"""Base class for algorithms. Algorithms and runners communicate only through the store."""

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
"""Rollout config that allows up to three attempts if the runner stops responding.

A runner can stop responding for reasons unrelated to the agent, so this alone should not make the rollout fail."""


@dataclass
class RunContext:
    """Objects that a run provides to its algorithm. A field is None if the run does not provide that object."""

    store: LightningStore | None = None
    adapter: TraceAdapter[Any] | None = None
    llm_proxy: Any = None
    initial_resources: NamedResources | None = None
    journal: Journal | None = None
    log_metrics: Callable[[Mapping[str, Any], int | None], None] | None = None


class Algorithm:
    """Base class for algorithms.

    Override `run` to enqueue tasks, wait for their rollouts, learn from the spans, and store improved resources. `run`
    may be sync or async; a sync `run` is called in its own thread. Its return value becomes the `returned` field of the
    result of `Trainer.fit`.
    """

    _context = RunContext()

    best_resources: ResourcesUpdate | None = None
    """The best version of the resources, if the algorithm sets it.

    If it is None, the trainer chooses the version with the highest mean reward."""

    def run(
        self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None
    ) -> Awaitable[Any] | Any:
        """Run the algorithm to completion on the given datasets."""
        raise NotImplementedError(f"{type(self).__name__} does not define run; override it in your subclass")

    def report(self) -> dict[str, Any]:
        """Return the algorithm's findings, as a JSON-serializable dict, for the result of the run.

        The trainer calls this after `run`.
        """
        return {}

    def bind(self, context: RunContext) -> None:
        """Set the objects that the run provides. The trainer calls this before `run`."""
        self._context = context

    def get_store(self) -> LightningStore:
        """Return the run's store. The algorithm enqueues tasks there, and runners claim them."""
        return _require(self._context.store, "store")

    def get_adapter(self) -> TraceAdapter[Any]:
        """Return the trainer's `adapter`, which converts a rollout's spans into the data that the algorithm needs."""
        return _require(self._context.adapter, "adapter")

    def get_llm_proxy(self) -> Any:
        """Return the trainer's `llm_proxy`, or None if it does not have one."""
        return self._context.llm_proxy

    def get_initial_resources(self) -> NamedResources | None:
        """Return the trainer's `initial_resources`, or None if it does not have any."""
        return self._context.initial_resources

    def get_journal(self) -> Journal:
        """Return the run's journal. It records completed steps, so that a resumed run can skip them."""
        return _require(self._context.journal, "journal")

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Send metrics to the run's callbacks and to the file `metrics.jsonl` in the run's folder."""
        if self._context.log_metrics is not None:
            self._context.log_metrics(values, step)


class FastAlgorithm(Algorithm):
    """Base class for algorithms that are fast enough for `Trainer.dev`, which rejects all others."""


def _require(value: T | None, name: str) -> T:
    if value is None:
        raise RuntimeError(f"the algorithm has no {name} yet: run it with Trainer.fit, which sets one")
    return value
