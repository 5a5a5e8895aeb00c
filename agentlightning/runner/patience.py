"""What a runner does while the store is away: it waits, says so once, and goes on."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from ..errors import StoreUnavailable

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0

R = TypeVar("R")


async def patiently(operation: Callable[[], Awaitable[R]], *, who: str) -> R:
    """The operation's result, however long the store is away; other errors are raised."""
    waited = False
    for pause in _pauses():
        try:
            result = await operation()
        except StoreUnavailable as error:
            if not waited:
                logger.warning("%s The store is away: %s Waiting for it.", who, error)
            waited = True
            await asyncio.sleep(pause)
        else:
            if waited:
                logger.info("%s The store is back.", who)
            return result
    raise AssertionError("the pauses have no end")


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, LONGEST_PAUSE)
