"""Both sides at once: whichever ends first decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from ..errors import InvalidInput
from ..store import LightningStore
from .base import AlgorithmSide

LOOK_SECONDS: Final = 1.0
"""How often is looked whether rollouts wait for runners that are all done."""


async def until_algorithm_ends(
    algorithm: AlgorithmSide, store: LightningStore, runners: Callable[[], Coroutine[Any, Any, None]]
) -> Any:
    """What the algorithm returns. What either side raises is raised, once the other has been cancelled.

    Runners that end by themselves end nothing.
    """
    await admit(algorithm, store)
    working, running = asyncio.ensure_future(algorithm(store)), asyncio.ensure_future(runners())
    try:
        await asyncio.wait({working, running}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await running
            await working
        return working.result()
    finally:
        await _cancelled(working)
        await _cancelled(running)


async def complain_when_rollouts_wait(store: LightningStore) -> None:
    """For after all runners have ended: raises when a rollout is in the queue, for which nobody will come."""
    while not (await store.statistics())["queue_depth"]:  # noqa: ASYNC110 - nobody announces it from afar
        await asyncio.sleep(LOOK_SECONDS)
    raise InvalidInput("all runners have done their max_rollouts, but rollouts are waiting", field="max_rollouts")


async def admit(algorithm: AlgorithmSide, store: LightningStore) -> None:
    """Let the algorithm refuse the store, if it has something to say to that."""
    if has_a_say := getattr(algorithm, "admit", None):
        await has_a_say(store)


async def _cancelled(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
    elif not task.cancelled():
        task.exception()  # looked at: the other side's error is the one that is raised
