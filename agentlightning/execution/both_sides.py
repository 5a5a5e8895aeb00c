"""Both sides at once: whichever ends first decides."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


async def until_algorithm_ends(algorithm: Coroutine[Any, Any, Any], runners: Coroutine[Any, Any, None]) -> Any:
    """What the algorithm returns. What either side raises is raised, once the other has been cancelled.

    Runners that end by themselves end nothing.
    """
    working, running = asyncio.ensure_future(algorithm), asyncio.ensure_future(runners)
    try:
        await asyncio.wait({working, running}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await running
            await working
        return working.result()
    finally:
        await _cancelled(working)
        await _cancelled(running)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
    elif not task.cancelled():
        task.exception()  # looked at: the other side's error is the one that is raised
