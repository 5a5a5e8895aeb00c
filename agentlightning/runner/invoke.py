"""Where the agent is called: what it raises comes back as a value, and it can always be let go of."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

CANCEL_SECONDS: Final = 3.0
"""How long a cancelled agent may take to tidy up before it is left behind."""


@dataclass(frozen=True)
class Returned:
    """The agent returned."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """The agent raised."""

    error: BaseException


Result = Returned | Raised

_left_behind: set[asyncio.Task[Result]] = set()
"""Keeps tasks that ignore their cancellation from being collected, which asyncio would complain about."""


def call(function: Callable[..., Any], *args: Any) -> asyncio.Task[Result]:
    """Begin `function(*args)`: as a task when it is async, else in a thread of its own.

    The task's result says what came of it. Only KeyboardInterrupt goes up.
    """
    return asyncio.create_task(_awaiting(function, *args))


async def let_go(task: asyncio.Task[Result]) -> bool:
    """Cancel the call, and wait a little for it to end. False when it did not: it is left behind.

    What runs in a thread cannot be ended; it runs on by itself, and nobody listens.
    """
    task.cancel()
    await asyncio.wait({task}, timeout=CANCEL_SECONDS)
    if task.done():
        return True
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)
    return False


async def _awaiting(function: Callable[..., Any], *args: Any) -> Result:
    try:
        if inspect.iscoroutinefunction(function):
            return Returned(await function(*args))
        result = await _in_thread(function, *args)
        if isinstance(result, Returned) and inspect.isawaitable(result.value):
            return Returned(await result.value)
        return result
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Raised(error)


async def _in_thread(function: Callable[..., Any], *args: Any) -> Result:
    # A daemon thread for each call, not a pool: an agent that hangs then neither fills a pool nor holds up the exit.
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Result] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        result = context.run(_result, function, *args)
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(_settle, ended, result)

    threading.Thread(target=run, name=f"agent-{threading.active_count()}", daemon=True).start()
    return await ended


def _result(function: Callable[..., Any], *args: Any) -> Result:
    try:
        return Returned(function(*args))
    except BaseException as error:
        return Raised(error)


def _settle(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)
