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


class Patience:
    """One runner's view of whether the store is there."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._away = False

    async def until_done(self, operation: Callable[[], Awaitable[R]]) -> R:
        """The operation's result, however long the store is away; other errors are raised."""
        for pause in _pauses():
            try:
                result = await operation()
            except StoreUnavailable as error:
                self._note(away=True, why=error)
                await asyncio.sleep(pause)
            else:
                self._note(away=False)
                return result
        raise AssertionError("the pauses have no end")

    def _note(self, *, away: bool, why: StoreUnavailable | None = None) -> None:
        if away and not self._away:
            logger.warning("%s The store is away: %s Waiting for it.", self._who, why)
        elif self._away and not away:
            logger.info("%s The store is back.", self._who)
        self._away = away


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, LONGEST_PAUSE)
