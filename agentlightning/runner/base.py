"""Base class of runners, which carry out rollouts of an agent."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, Protocol, Self, TypeVar

from ..litagent import LitAgent
from ..logs import ensure_logging
from ..store import LightningStore
from ..types import Hook, NamedResources, Rollout, RolloutMode

T = TypeVar("T")


class StopEvent(Protocol):
    """An `Event` of threading, multiprocessing or asyncio that stops a runner."""

    def is_set(self) -> bool:
        """Return True once the event is set."""
        ...


class Runner(Generic[T]):
    """Carries out rollouts of tasks of type `T`, within `run_context`."""

    @contextmanager
    def run_context(
        self,
        *,
        agent: LitAgent[T] | Callable[..., Any],
        store: LightningStore,
        hooks: Sequence[Hook] | None = None,
        worker_id: int | str | None = None,
    ) -> Generator[Self]:
        """Prepare to run `agent` on rollouts of `store`. Call `iter` or `step` in the block.

        `worker_id` is a short number for the log (the store gets a unique name made of it), or a complete name.
        """
        ensure_logging()
        with ExitStack() as stack:
            self.init(agent, hooks=hooks)
            stack.callback(self.teardown)
            self.init_worker(worker_id, store)
            stack.callback(self.teardown_worker)
            yield self

    def init(self, agent: LitAgent[T] | Callable[..., Any], *, hooks: Sequence[Hook] | None = None) -> None:
        """Set the agent and the hooks. Called once, before any process is forked."""
        raise NotImplementedError

    def init_worker(self, worker_id: int | str | None, store: LightningStore) -> None:
        """Start the background services of the worker. Called in the process that runs the rollouts."""
        raise NotImplementedError

    def teardown_worker(self) -> None:
        """Stop the background services of the worker."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Clear the agent and the hooks."""
        raise NotImplementedError

    async def iter(self, event: StopEvent | None = None) -> None:
        """Claim rollouts and carry them out, until `event` is set or enough are done."""
        raise NotImplementedError

    async def step(self, input: T, resources: NamedResources | None = None, mode: RolloutMode | None = None) -> Rollout:
        """Carry out one rollout of `input` without the queue, and return it finished."""
        raise NotImplementedError
