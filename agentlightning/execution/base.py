"""ExecutionStrategy: what a trainer asks of the place where both sides run.

A strategy sees two callables and a way to open the store, and nothing else. Whatever happens, both sides end together:
the algorithm's end stops the runners, a crash on either side stops the other and is raised, with its own traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

from ..runner import StopEvent
from ..store import LightningStore

Role = Literal["both", "algorithm", "runner"]

OpenStore = Callable[[], AbstractAsyncContextManager[LightningStore]]
"""Opens the store for as long as a context lasts; called once runners need no more be forked."""


class AlgorithmSide(Protocol):
    """The algorithm, ready to run: its end is the end of the run.

    One with a method `admit(store)` has it awaited before any runner starts; what that raises ends the run.
    """

    async def __call__(self, store: LightningStore) -> Any:
        """Run to the end; what it returns is what `execute` returns."""
        ...


class RunnerSide(Protocol):
    """One runner, ready to run."""

    async def __call__(self, store: LightningStore, worker: int, stop: StopEvent) -> None:
        """Carry out rollouts until `stop` is set or SIGTERM comes. `worker` counts the runners from 0."""
        ...


class ExecutionStrategy:
    """Runs one algorithm and some runners until the algorithm is done."""

    role: Role = "both"
    """Which of the two sides this process plays."""

    def execute(
        self,
        algorithm: AlgorithmSide,
        runner: RunnerSide,
        open_store: OpenStore,
        *,
        n_runners: int = 1,
    ) -> Any:
        """Run both sides to the end, and return what the algorithm returned.

        Raises what either side raised; a Ctrl-C stops cleanly and is raised
        as KeyboardInterrupt, a second one stops at once.
        """
        raise NotImplementedError
