"""Base class of execution strategies, and code that they share.

A strategy receives the algorithm and a runner as async callables, and a function that opens the store. It stops the
runners when the algorithm ends. An error in the algorithm or in a runner stops the run, and is raised with its original
traceback.
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
"""Opens the store for the duration of an `async with` block. A strategy that forks its process must do so before it
opens the store, because opening a store may start threads, and forking a process that has threads is unsafe."""


class AlgorithmTask(Protocol):
    """The algorithm as an async callable. The run ends when the algorithm ends.

    The object may also have an async method `acquire(store)`, for example to lock the store. This method is awaited
    before any runner starts. If it raises an error, the run ends.
    """

    async def __call__(self, store: LightningStore) -> Any:
        """Run the algorithm until it ends, and return its result, which `ExecutionStrategy.execute` then returns."""
        ...


class RunnerTask(Protocol):
    """A runner as an async callable. Each call runs one runner."""

    async def __call__(self, store: LightningStore, worker: int, stop: StopEvent) -> None:
        """Run rollouts until `stop` is set, SIGTERM is received, or the runner has reached its limit of rollouts.

        `worker` is the number of the runner, starting at 0.
        """
        ...


class ExecutionStrategy:
    """Runs an algorithm together with one or more runners until the algorithm ends."""

    role: Role = "both"
    """The part of the run that this process executes: the algorithm, the runners, or both."""

    def execute(
        self, algorithm: AlgorithmTask, runner: RunnerTask, open_store: OpenStore, *, n_runners: int = 1
    ) -> Any:
        """Run the algorithm and the runners until the algorithm ends, and return the algorithm's return value.

        If `role` is not `both`, this process runs only the algorithm or only the runners. Raises any error from the
        algorithm or a runner. The first Ctrl-C stops the run cleanly, and then raises KeyboardInterrupt. The second
        Ctrl-C stops it immediately.
        """
        raise NotImplementedError


def run_until_complete(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `work` in a new event loop and return its result.

    The first Ctrl-C or SIGTERM cancels `work`, which can then clean up; the second stops it immediately. Ctrl-C raises
    KeyboardInterrupt, and SIGTERM raises SystemExit. If an event loop is already running in the current thread, as in a
    notebook, `work` runs in a new thread, and SIGTERM is not handled.
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
    """Run the algorithm and the runners, and return the algorithm's return value.

    `runners` returns a coroutine that runs all the runners and stops them when it is cancelled. If the algorithm or a
    runner fails, everything else is cancelled before the error is raised. If all the runners end without an error, the
    algorithm continues. However, as soon as the queue then contains a rollout, the run fails, because there is no
    runner left to claim the rollout.
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
    while not (await store.statistics())["queue_depth"]:  # noqa: ASYNC110 - a remote store provides no event to wait for
        await asyncio.sleep(POLL_INTERVAL_QUEUE)
    raise InvalidInput("all runners have reached max_rollouts, but rollouts are still queued", field="max_rollouts")


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
