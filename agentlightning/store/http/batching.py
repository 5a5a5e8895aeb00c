"""Calls that are made at the same time in one event loop travel in one request.

A call goes at once when few requests are under way; while they are, the next calls gather by themselves. No timer holds
a call back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from ... import payload
from ...errors import StoreUnavailable
from ..operations import MOST_CALLS, Answer, Arguments, Operation, Request
from .batch import Call

MOST_UNDER_WAY = 2
"""Requests on their way before calls gather: while the store works on one, this side works on the other."""
MOST_BYTES = 2**20
"""Of arguments in one request; a call with more goes alone."""
PATIENCE = 0.25
"""Seconds after which a request that is still under way holds up no others."""

Carried = Answer | StoreUnavailable
"""What came of a call: the answer, or why there is none yet."""


@dataclass(slots=True)
class Outgoing:
    """A call on its way to the store, the same however often it is tried."""

    operation: Operation
    arguments: Arguments
    request: Request
    idempotency_key: str | None

    @property
    def size(self) -> int:
        """Bytes of its arguments, nearly."""
        return len(self.request.body or b"")

    def call(self) -> Call:
        """The call as it travels with others."""
        body = payload.dumps_fields(self.arguments) if self.request.body is None else self.request.body
        return Call(self.operation.route.name, msgspec.Raw(body), self.idempotency_key)


_Waiting = tuple[Outgoing, asyncio.Future[Carried]]


class Carrier:
    """Takes the calls of one event loop to the store, `alone` or `together`."""

    def __init__(
        self,
        alone: Callable[[Outgoing], Awaitable[Carried]],
        together: Callable[[Sequence[Outgoing]], Awaitable[Sequence[Carried]]],
    ) -> None:
        self._alone = alone
        self._together = together
        self._waiting: deque[_Waiting] = deque()
        self._journeys = set[asyncio.Task[None]]()
        self._under_way = set[asyncio.Task[None]]()
        """Those of the journeys that others wait for."""
        self._leaving = False

    async def carry(self, outgoing: Outgoing) -> Carried:
        """What came of the call."""
        answer: asyncio.Future[Carried] = asyncio.get_running_loop().create_future()
        self._waiting.append((outgoing, answer))
        self._leave_soon()
        return await answer

    def _leave_soon(self) -> None:
        # Not at once: whoever was woken by the same answers makes its next call in the same turn of the loop.
        if not self._leaving and self._waiting and len(self._under_way) < MOST_UNDER_WAY:
            self._leaving = True
            asyncio.get_running_loop().call_soon(self._leave)

    def _leave(self) -> None:
        self._leaving = False
        while len(self._under_way) < MOST_UNDER_WAY and (group := self._next_group()):
            journey = asyncio.get_running_loop().create_task(self._travel(group))
            self._journeys.add(journey)
            self._under_way.add(journey)
            late = asyncio.get_running_loop().call_later(PATIENCE, self._let_others_go, journey)
            journey.add_done_callback(lambda journey, late=late: self._arrived(journey, late))

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._waiting and len(group) < MOST_CALLS:
            outgoing, answer = self._waiting[0]
            size += outgoing.size
            if group and size > MOST_BYTES:
                break
            self._waiting.popleft()
            if not answer.done():  # its caller was cancelled
                group.append((outgoing, answer))
        return group

    async def _travel(self, group: list[_Waiting]) -> None:
        calls = [outgoing for outgoing, _ in group]
        answers = [answer for _, answer in group]
        try:
            carried = [await self._alone(calls[0])] if len(calls) == 1 else await self._together(calls)
            for answer, came in zip(answers, carried, strict=True):
                if not answer.done():
                    answer.set_result(came)
        except Exception as error:
            _fail(answers, error)
        except asyncio.CancelledError:
            _fail(answers, StoreUnavailable("the call was broken off"))
            raise

    def _arrived(self, journey: asyncio.Task[None], late: asyncio.TimerHandle) -> None:
        late.cancel()
        self._journeys.discard(journey)
        self._let_others_go(journey)

    def _let_others_go(self, journey: asyncio.Task[None]) -> None:
        self._under_way.discard(journey)
        self._leave_soon()


def _fail(answers: Sequence[asyncio.Future[Carried]], error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
