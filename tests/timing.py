"""How long something takes, on a machine that may have other things to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

TRIES = 5


async def quickest(measure: Callable[[], Awaitable[float]], enough: float) -> float:
    """The least that `measure` finds. It is asked again while that is more than `enough`: what is slow by itself is
    slow each time, and what had to wait for the machine once is not.
    """
    least = await measure()
    for _ in range(TRIES - 1):
        if least <= enough:
            break
        least = min(least, await measure())
    return least
