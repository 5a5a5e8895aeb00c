"""Event loops in threads, and blocking functions called from an event loop.

- `event_loop_thread`: an event loop that accepts calls from other threads, for servers and database connections.
- `BackgroundTask`: one coroutine in its own event loop, which agents and algorithms cannot block.
- `heartbeat`: calls a coroutine function at regular intervals, in a background task.
- `run_in_thread`: awaits a blocking function from an event loop.
- `map_in_slices`: applies a function to many items without blocking the event loop for long.
- `sigterm_handler`: runs a callback in the running event loop on SIGTERM.
- `new_event_loop`: creates an event loop, with uvloop if it is installed.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from .errors import AgentLightningError

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

logger = logging.getLogger(__name__)

T = TypeVar("T")
S = TypeVar("S")
Beat = Callable[[], Awaitable[None]]

SIGTERM_EXIT: Final = 128 + signal.SIGTERM
"""Conventional exit code for a process that SIGTERM has terminated."""
MIN_HEARTBEAT_TIMEOUT: Final = 5.0
"""Minimum timeout for one heartbeat, in seconds.

It exceeds the latency of a busy store and is well below 30 seconds, the default time without heartbeats after which an
attempt becomes `unresponsive`.
"""
POLL_INTERVAL_CHANGES: Final = 0.5
"""Seconds between calls to `has_changes`. A change that is reverted before the next call does not cause a heartbeat."""
HEARTBEAT_STOP_TIMEOUT: Final = 2.0
"""Maximum time, in seconds, to wait for the heartbeat thread to end. After that, this daemon thread is left running."""

SLICE_SECONDS: Final = 0.005
"""Time in seconds after which `map_in_slices` lets the event loop run other tasks."""


@contextmanager
def event_loop_thread(name: str) -> Generator[BlockingPortal]:
    """Run an event loop in a daemon thread until the block ends, and yield an anyio portal for calls into the loop.

    `portal.call(function, *args)` runs a function or coroutine function in the loop and blocks until it returns.
    `portal.start_task_soon` returns a `concurrent.futures.Future` instead, which another event loop can await with
    `asyncio.wrap_future`. Every call through the portal creates a task. On a hot path, therefore, get the loop once
    with `portal.call(asyncio.get_running_loop)` and use `loop.call_soon_threadsafe`. At the end of the block, the
    portal waits for the tasks that it started, or cancels them if the block raises an exception.
    """
    from anyio.from_thread import start_blocking_portal  # this import takes 35 ms, and runners do not need it

    with start_blocking_portal("asyncio", {"loop_factory": new_event_loop}, name=name) as portal:
        yield portal


class BackgroundTask(Generic[T]):
    """A coroutine running in its own event loop, in a daemon thread. It starts immediately.

    This class does not use anyio's portal, for two reasons. In a task that anyio has cancelled, every further `await`
    is also cancelled, so cleanup code could not await anything. And closing a portal waits for its thread without a
    time limit, even if the thread is stuck.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> None:
        self._work = work
        self._cancelled = asyncio.Event()
        self._result: Future[T] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for the coroutine to finish. Return its result or raise its exception."""
        return self._result.result()

    def stop(self, timeout: float | None = None) -> None:
        """Cancel the coroutine and wait for its thread to end, for at most `timeout` seconds. None means no limit."""
        with suppress(RuntimeError):  # the loop is closed because the coroutine has finished
            self._loop.call_soon_threadsafe(self._cancelled.set)
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                result = runner.run(self._until_cancelled())
        except BaseException as error:
            self._result.set_exception(error)
        else:
            self._result.set_result(result)

    async def _until_cancelled(self) -> T:
        work, cancelled = asyncio.ensure_future(self._work()), asyncio.ensure_future(self._cancelled.wait())
        await asyncio.wait({work, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
        return await work


@contextmanager
def heartbeat(beat: Beat, interval: float, *, name: str, has_changes: Callable[[], bool]) -> Generator[None]:
    """Call `beat` immediately and then every `interval` seconds, in a background thread, until the block ends.

    Between these calls, `has_changes` is polled. If it returns True, `beat` is called early. A call to `beat` is
    cancelled if it takes too long or is still in progress when the block ends. Of several consecutive failures, only
    the first is logged.
    """
    task = BackgroundTask(lambda: _beat_repeatedly(beat, interval, has_changes), name=name)
    try:
        yield
    finally:
        task.stop(HEARTBEAT_STOP_TIMEOUT)


async def _beat_repeatedly(beat: Beat, interval: float, has_changes: Callable[[], bool]) -> None:
    was_failing = False
    while True:
        due = time.monotonic() + interval
        try:
            async with asyncio.timeout(max(interval, MIN_HEARTBEAT_TIMEOUT)):
                await beat()
            was_failing = False
        except Exception as error:
            if not was_failing:
                is_expected = isinstance(error, (AgentLightningError, OSError))
                message = str(error) or type(error).__name__
                logger.warning(
                    "A heartbeat failed and will be retried: %s", message, exc_info=None if is_expected else error
                )
            was_failing = True
        while (left := due - time.monotonic()) > 0:
            await asyncio.sleep(min(left, POLL_INTERVAL_CHANGES))
            if has_changes():
                break


async def run_in_thread(function: Callable[..., T], *args: Any, name: str) -> T:
    """Run `function(*args)` in a new daemon thread, with the caller's context variables, and return its result.

    If the waiting task is cancelled, the thread continues to run, and the result is discarded. The worker threads of
    anyio and asyncio are unsuitable: their number is limited, and the interpreter waits for them when it exits. A
    function that hangs would therefore occupy a worker thread permanently and prevent the exit.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome = context.run(function, *args), None
        except BaseException as error:
            outcome = None, error
        with suppress(RuntimeError):  # the loop is closed, so discard the outcome
            loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(outcome))

    threading.Thread(target=run, name=name, daemon=True).start()
    result, error = await future
    if error is not None:
        raise error
    return result


async def map_in_slices(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return `[function(item) for item in items]`, and let the event loop run other tasks every few milliseconds."""
    results: list[T] = []
    until = time.perf_counter() + SLICE_SECONDS
    for item in items:
        results.append(function(item))
        if time.perf_counter() > until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_SECONDS
    return results


@contextmanager
def sigterm_handler(handle: Callable[[], object]) -> Generator[None]:
    """Until the block ends, handle the first SIGTERM by calling `handle` in the running event loop.

    A second SIGTERM raises SystemExit. This context manager does nothing outside the main thread, or if the program has
    installed its own SIGTERM handler.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    loop = asyncio.get_running_loop()
    received = False

    def on_signal(*_: object) -> None:
        nonlocal received
        if received:
            raise SystemExit(SIGTERM_EXIT)
        received = True
        loop.call_soon_threadsafe(handle)

    signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Create a uvloop event loop, or a standard asyncio event loop if uvloop is not installed."""
    try:
        import uvloop
    except ImportError:  # uvloop does not support Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
