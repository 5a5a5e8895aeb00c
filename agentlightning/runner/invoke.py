"""Call the agent: its errors are returned as values, and a call that does not end can be abandoned."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ..concurrency import run_in_thread

CANCELLATION_GRACE_SECONDS: Final = 3.0
"""Time for a cancelled agent to clean up before its call is abandoned."""


@dataclass(frozen=True)
class Returned:
    """The agent returned."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """The agent raised."""

    error: BaseException


Result = Returned | Raised

_abandoned: set[asyncio.Task[Result]] = set()
"""Keeps tasks that ignore their cancellation from being garbage-collected, about which asyncio would complain."""


def invoke(function: Callable[..., Any], *args: Any) -> asyncio.Task[Result]:
    """Start `function(*args)`: as a task when it is async, else in a thread of its own.

    The task's result holds what was returned or raised. Only KeyboardInterrupt is raised.
    """
    return asyncio.create_task(_invoke(function, *args))


async def abandon(task: asyncio.Task[Result]) -> bool:
    """Cancel the call and wait briefly for its end. Return False when it has not ended, and is abandoned.

    A thread cannot be ended: it runs on, and its result is dropped.
    """
    task.cancel()
    await asyncio.wait({task}, timeout=CANCELLATION_GRACE_SECONDS)
    if task.done():
        return True
    _abandoned.add(task)
    task.add_done_callback(_abandoned.discard)
    return False


async def _invoke(function: Callable[..., Any], *args: Any) -> Result:
    try:
        if inspect.iscoroutinefunction(function):
            return Returned(await function(*args))
        result = await run_in_thread(_call, function, *args, name="agl-agent")
        if isinstance(result, Returned) and inspect.isawaitable(result.value):
            return Returned(await result.value)
        return result
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Raised(error)


def _call(function: Callable[..., Any], *args: Any) -> Result:
    try:
        return Returned(function(*args))
    except BaseException as error:
        return Raised(error)
