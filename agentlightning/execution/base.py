"""Base class of execution strategies.

A strategy gets two callables and a way to open the store. The end of the algorithm stops the runners; an error of
either one stops the other and is raised with its own traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

from ..runner import StopEvent
from ..store import LightningStore

Role = Literal["both", "algorithm", "runner"]

OpenStore = Callable[[], AbstractAsyncContextManager[LightningStore]]
"""Opens the store for the length of a block. Called after the supervisor of the runners has been forked."""


class AlgorithmTask(Protocol):
    """The algorithm, ready to run. Its end is the end of the run.

    If it has a method `acquire(store)`, that is awaited before any runner starts; an error there ends the run.
    """

    async def __call__(self, store: LightningStore) -> Any:
        """Run to the end. The return value becomes that of `execute`."""
        ...


class RunnerTask(Protocol):
    """A runner, ready to run."""

    async def __call__(self, store: LightningStore, worker: int, stop: StopEvent) -> None:
        """Carry out rollouts until `stop` is set or SIGTERM arrives. `worker` numbers the runners from 0."""
        ...


class ExecutionStrategy:
    """Runs one algorithm and several runners until the algorithm has ended."""

    role: Role = "both"
    """The part that this process runs."""

    def execute(
        self, algorithm: AlgorithmTask, runner: RunnerTask, open_store: OpenStore, *, n_runners: int = 1
    ) -> Any:
        """Run algorithm and runners to the end, and return the algorithm's return value.

        Raises the error of either one. A Ctrl-C stops cleanly and is raised as KeyboardInterrupt; a second one stops
        at once.
        """
        raise NotImplementedError
