"""How a run is waited for, and how Ctrl-C and SIGTERM end it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")

TERMINATED = 128 + signal.SIGTERM


def run_to_the_end(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `work`, in an event loop of its own.

    The first Ctrl-C or SIGTERM cancels it, so that it can tidy up; the second breaks it off. They are raised as
    KeyboardInterrupt and SystemExit. Where an event loop runs already, as in a notebook, it works in a thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_ending_on_sigterm(work))
    return _in_thread(lambda: asyncio.run(work()))


async def _ending_on_sigterm(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with _sigterm_cancels() as terminated:
        try:
            return await work()
        except asyncio.CancelledError:
            if terminated.is_set():
                raise SystemExit(TERMINATED) from None
            raise


@contextlib.contextmanager
def _sigterm_cancels() -> Generator[threading.Event]:
    terminated = threading.Event()
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not free:
        yield terminated
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def cancel(*_: object) -> None:
        if terminated.is_set():
            raise SystemExit(TERMINATED)
        terminated.set()
        loop.call_soon_threadsafe(task.cancel)

    signal.signal(signal.SIGTERM, cancel)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _in_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="agl-run", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
