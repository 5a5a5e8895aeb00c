"""Event loops in threads, and blocking functions beside an event loop.

- `event_loop_thread`: an event loop that takes calls from other threads, for servers and database connections.
- `BackgroundTask`: one coroutine in an event loop of its own, which no agent or algorithm can block.
- `run_in_thread`: a blocking function, awaited from an event loop.
- `sigterm_handler`: a callback in the running event loop on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")

SIGTERM_EXIT: Final = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM has ended."""


@contextmanager
def event_loop_thread(name: str) -> Generator[BlockingPortal]:
    """Run an event loop in a daemon thread until the block ends; the value is anyio's portal for calls into it.

    `portal.call(function, *args)` blocks until a function or coroutine function is done. `portal.start_task_soon`
    returns a `concurrent.futures.Future` instead; `asyncio.wrap_future` awaits it from another event loop. A hot path
    takes the loop once, with `portal.call(asyncio.get_running_loop)`, and uses `loop.call_soon_threadsafe`: a call
    through the portal costs a task. At the end of the block the portal waits for the tasks that it started, and
    cancels them if the block raises.
    """
    from anyio.from_thread import start_blocking_portal  # costs 35 ms, which a runner's process need not pay

    with start_blocking_portal("asyncio", {"loop_factory": new_event_loop}, name=name) as portal:
        yield portal


class BackgroundTask(Generic[T]):
    """One coroutine in an event loop of its own, in a daemon thread.

    Not built on anyio's portal: anyio cancels a task again at every further await, so that cleanup code could not
    await anything, and closing a portal waits without limit for a thread that is stuck.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> None:
        self._work = work
        self._name = name
        self._cancelled = asyncio.Event()
        self._result: Future[T] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the coroutine."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Wait for the coroutine and return its result, or raise its error."""
        return self._result.result()

    def stop(self, timeout: float | None = None) -> None:
        """Cancel the coroutine and wait for its thread to end, up to `timeout` seconds."""
        if self._loop is None or self._thread is None:
            return
        with suppress(RuntimeError):  # the loop is closed: the coroutine has finished
            self._loop.call_soon_threadsafe(self._cancelled.set)
        self._thread.join(timeout)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
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


async def run_in_thread(function: Callable[..., T], *args: Any, name: str) -> T:
    """Await `function(*args)` in a daemon thread of its own, with the caller's context variables.

    A cancelled call leaves its thread running, and its result is dropped. Neither anyio's nor asyncio's worker threads
    are used: their number is limited, and they are joined when the interpreter exits, so a function that hangs would
    take a worker away from others and block the exit.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome = context.run(function, *args), None
        except BaseException as error:
            outcome = None, error
        with suppress(RuntimeError):  # the loop is closed, so the outcome has no receiver
            loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(outcome))

    threading.Thread(target=run, name=name, daemon=True).start()
    result, error = await future
    if error is not None:
        raise error
    return result


@contextmanager
def sigterm_handler(handle: Callable[[], object]) -> Generator[None]:
    """Call `handle` in the running event loop at the first SIGTERM of the block; the second raises SystemExit.

    Does nothing outside the main thread, and where the program has installed a handler of its own.
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
    """Create a uvloop event loop, or asyncio's own where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:  # on Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
