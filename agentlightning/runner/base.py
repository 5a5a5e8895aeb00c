"""Runner: what carries out rollouts, and how its life begins and ends."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, Protocol, Self, TypeVar

from ..litagent import LitAgent
from ..logs import speak_if_silent
from ..store import LightningStore
from ..types import Hook, NamedResources, Rollout, RolloutMode

T = TypeVar("T")


class StopEvent(Protocol):
    """Set when a runner is to stop: an `Event` of threading, multiprocessing or asyncio."""

    def is_set(self) -> bool:
        """Whether it has been set."""
        ...


class Runner(Generic[T]):
    """Carries out rollouts of tasks of type `T`, between `run_context`'s entry and its exit."""

    @contextmanager
    def run_context(
        self,
        *,
        agent: LitAgent[T] | Callable[..., Any],
        store: LightningStore,
        hooks: Sequence[Hook] | None = None,
        worker_id: int | str | None = None,
    ) -> Generator[Self]:
        """Make ready to run `agent` on rollouts of `store`; inside, call `iter` or `step`.

        `worker_id` is a short number for the log (the store gets one that no other process has), or a whole name.
        """
        speak_if_silent()
        with ExitStack() as stack:
            self.init(agent, hooks=hooks)
            stack.callback(self.teardown)
            self.init_worker(worker_id, store)
            stack.callback(self.teardown_worker)
            yield self

    def init(self, agent: LitAgent[T] | Callable[..., Any], *, hooks: Sequence[Hook] | None = None) -> None:
        """Get to know what to run; done once, before any process is forked."""
        raise NotImplementedError

    def init_worker(self, worker_id: int | str | None, store: LightningStore) -> None:
        """Start what runs beside the rollouts; done in the process that runs them."""
        raise NotImplementedError

    def teardown_worker(self) -> None:
        """Stop what `init_worker` started."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Forget what `init` was given."""
        raise NotImplementedError

    async def iter(self, event: StopEvent | None = None) -> None:
        """Claim rollouts and carry them out, until `event` is set or enough are done."""
        raise NotImplementedError

    async def step(self, input: T, resources: NamedResources | None = None, mode: RolloutMode | None = None) -> Rollout:
        """Carry out one rollout of `input`, past the queue, and return it finished."""
        raise NotImplementedError
