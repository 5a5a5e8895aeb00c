"""Algorithm: what makes an agent better, given a store to reach its runners through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..adapter import TraceAdapter
from ..store import LightningStore
from ..types import Dataset, NamedResources, ResourcesUpdate
from .journal import Journal

T = TypeVar("T")


def _ignore(values: Mapping[str, Any], step: int | None) -> None:
    """Nobody listens to metrics."""


@dataclass
class Surroundings:
    """What an algorithm is given for one run."""

    store: LightningStore | None = None
    adapter: TraceAdapter[Any] | None = None
    llm_proxy: Any = None
    initial_resources: NamedResources | None = None
    journal: Journal | None = None
    log_metrics: Callable[[Mapping[str, Any], int | None], None] = field(default=_ignore)


class Algorithm:
    """Override `run`: enqueue tasks, wait for them, learn from their spans, store better resources.

    What `run` returns is the `returned` of the trainer's result. It may be async or not; one that is not runs in a
    thread of its own.
    """

    _surroundings = Surroundings()

    best_resources: ResourcesUpdate | None = None
    """What the algorithm found best; None lets the trainer choose the resources with the highest mean reward."""

    def run(
        self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None
    ) -> Awaitable[Any] | Any:
        """Do the work, to its end."""
        raise NotImplementedError(f"{type(self).__name__} does not define run")

    def report(self) -> dict[str, Any]:
        """What it found, as JSON for the run's result; called when it has ended."""
        return {}

    # What it is given

    def surround(self, surroundings: Surroundings) -> None:
        """Called by the trainer before `run`."""
        self._surroundings = surroundings

    def get_store(self) -> LightningStore:
        """Where its runners get their tasks from."""
        return _given(self._surroundings.store, "store")

    def get_adapter(self) -> TraceAdapter[Any]:
        """Makes data of spans; the trainer's `adapter`."""
        return _given(self._surroundings.adapter, "adapter")

    def get_llm_proxy(self) -> Any:
        """The trainer's `llm_proxy`, or None."""
        return self._surroundings.llm_proxy

    def get_initial_resources(self) -> NamedResources | None:
        """The trainer's `initial_resources`, or None."""
        return self._surroundings.initial_resources

    def get_journal(self) -> Journal:
        """What was done in this run before, for an algorithm that is resumed."""
        return _given(self._surroundings.journal, "journal")

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Let the run's callbacks know; they also end up in `metrics.jsonl`."""
        self._surroundings.log_metrics(values, step)


class FastAlgorithm(Algorithm):
    """An algorithm that is done soon enough for `Trainer.dev`."""


def _given(thing: T | None, name: str) -> T:
    if thing is None:
        raise RuntimeError(f"the algorithm has no {name} yet: it is given one by Trainer.fit")
    return thing
