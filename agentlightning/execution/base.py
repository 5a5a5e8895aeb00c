"""Base class of execution strategies, and the parts that they share.

A strategy gets two callables and a way to open the store. The end of the algorithm stops the runners; an error of
either one stops the other and is raised with its own traceback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, Protocol, TypeVar

from ..concurrency import SIGTERM_EXIT, BackgroundTask, sigterm_handler
from ..errors import InvalidInput
from ..runner import StopEvent
from ..store import LightningStore

T = TypeVar("T")

POLL_INTERVAL_QUEUE: Final = 1.0

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


def run_until_complete(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return the result of `work`, run in an event loop of its own.

    The first Ctrl-C or SIGTERM cancels it, so that it can clean up; the second stops at once. They are raised as
    KeyboardInterrupt and SystemExit. Where an event loop is running already, as in a notebook, `work` runs in a thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_cancelled_by_sigterm(work))
    task = BackgroundTask(work, name="agl-run")
    try:
        return task.result()
    finally:
        task.stop()


async def run_together(
    algorithm: AlgorithmTask, store: LightningStore, runners: Callable[[], Coroutine[Any, Any, None]]
) -> Any:
    """Return the algorithm's return value. An error of either side is raised after the other has been cancelled.

    `runners` stops the runners when it is cancelled. Runners that end without an error do not end the run, unless a
    rollout is left that none can claim.
    """
    if acquire := getattr(algorithm, "acquire", None):
        await acquire(store)
    working, running = asyncio.ensure_future(algorithm(store)), asyncio.ensure_future(_run_all(runners, store))
    try:
        await asyncio.wait({working, running}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await running
        return await working
    finally:
        for task in (working, running):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _run_all(runners: Callable[[], Coroutine[Any, Any, None]], store: LightningStore) -> None:
    await runners()
    while not (await store.statistics())["queue_depth"]:  # noqa: ASYNC110 - a remote store does not announce it
        await asyncio.sleep(POLL_INTERVAL_QUEUE)
    raise InvalidInput("all runners have completed max_rollouts, but rollouts are still queued", field="max_rollouts")


async def _cancelled_by_sigterm(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    task, terminated = asyncio.current_task(), asyncio.Event()
    assert task is not None

    def terminate() -> None:
        terminated.set()
        task.cancel()

    with sigterm_handler(terminate):
        try:
            return await work()
        except asyncio.CancelledError:
            if terminated.is_set():
                raise SystemExit(SIGTERM_EXIT) from None
            raise
