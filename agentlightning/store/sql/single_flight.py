"""One answer for all who ask the same at about the same time, so that many onlookers cost about what one costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

CROWD_SECONDS = 5.0
"""Who asks what somebody else is asking makes a crowd, which lasts so long. Who asks alone never waits."""
GATHER = 0.03
"""In a crowd, the first who asks waits so long for the others."""
REST = 20
"""In a crowd, after an answer comes a rest of as long as it took, times this: 5 % of one core for each question."""
LONGEST_REST = 1.0
REMEMBERED = 64
"""Questions; of more, those whose rest is over are forgotten."""


class Shared:
    """Answers that may be given to several. None is older than the question that it answers."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, _Turn] = {}

    async def answer(self, question: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives. All who ask during a rest are given the answer that follows it."""
        turn = self._turn(question)
        if turn.following or turn.under_way:
            turn.crowded_until = time.monotonic() + CROWD_SECONDS
        following = turn.following
        if following is None or following.get_loop() is not asyncio.get_running_loop():
            following = turn.following = asyncio.ensure_future(_in_turn(turn, work))
            following.add_done_callback(_noticed)
        return await asyncio.shield(following)

    def _turn(self, question: Hashable) -> _Turn:
        if question not in self._turns:
            if len(self._turns) >= REMEMBERED:
                now = time.monotonic()
                self._turns = {at: turn for at, turn in self._turns.items() if turn.following or turn.rests_until > now}
            self._turns[question] = _Turn()
        return self._turns[question]


@dataclass
class _Turn:
    following: asyncio.Future[Any] | None = None
    """The answer that is about to be worked out."""
    under_way: int = 0
    """Answers that are being worked out."""
    crowded_until: float = 0.0
    rests_until: float = 0.0


async def _in_turn(turn: _Turn, work: Callable[[], Awaitable[T]]) -> T:
    now = time.monotonic()
    await asyncio.sleep(max(GATHER, turn.rests_until - now) if now < turn.crowded_until else 0)
    # Who asks from now on may know of something that this answer does not.
    turn.following = None
    turn.under_way += 1
    began = time.monotonic()
    try:
        return await work()
    finally:
        ended = time.monotonic()
        turn.under_way -= 1
        turn.rests_until = ended + min(REST * (ended - began), LONGEST_REST)


def _noticed(answer: asyncio.Future[Any]) -> None:
    """Where all who asked have gone, nobody else looks at what went wrong."""
    if not answer.cancelled():
        answer.exception()
