"""Couriers bring parcels to a store, in order. What the store does not take at once waits in a spool, not in memory.

While the store answers, a parcel goes straight to it. When it is away, or slow, the parcel and all that follow are
written to the spool, which is sent from its beginning until nothing is left in it. So the end of this process, however
sudden, costs at most what had not been written yet, and memory stays what it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import AgentLightningError, StoreUnavailable
from ..store.contract import LightningStore
from ..types import Attempt, AttemptRef
from .delivery import Sender
from .disk_buffer import Spool, adopted, folder_of, left_behind, sent
from .span_batch import Parcel, settle, unpacked

logger = logging.getLogger("agentlightning.tracer")

PATIENCE_SECONDS = 1.0
"""How long a store that is there may take over a parcel until what follows it goes to disk."""
LOOK_SECONDS = 0.05
"""How soon it is noticed that the store is away."""


class Courier:
    """Works for one store. Lives in one event loop.

    Calls `done` with the number of items that have arrived, and `on_late` with attempts that the store has given up.
    """

    def __init__(
        self, store: LightningStore, done: Callable[[int], None], on_late: Callable[[AttemptRef], None]
    ) -> None:
        self._store = store
        self._done = done
        self._sender = Sender(on_late)
        self._folder = folder_of(store)
        self._spool = Spool(self._folder)
        self._kept: deque[_Kept] = deque()
        self._catching_up: asyncio.Task[None] | None = None
        self._leftovers: asyncio.Task[None] | None = None

    @property
    def dropped(self) -> int:
        """Spans that the store has refused for good."""
        return self._sender.dropped

    @property
    def is_idle(self) -> bool:
        """Nothing is on its way from here, or all of it is safe from the end of this process."""
        return self._catching_up is None or self._spool.survives

    async def bring(self, parcel: Parcel) -> None:
        """Return when the parcel has arrived, or is in the spool behind what waits there."""
        if self._catching_up is None:
            sending = asyncio.create_task(self._send(parcel))
            try:
                if await self._arrives_soon(sending):
                    return
            except asyncio.CancelledError:
                if not sending.done() or sending.cancelled():
                    self.keep(parcel)  # it may have arrived all the same; the store knows then
                raise
            self._catching_up = asyncio.create_task(self._catch_up(sending))
        if not self.keep(parcel):
            # Neither the store nor the disk takes it: nobody goes on before one of them does.
            await asyncio.wait({self._catching_up})

    def look_for_leftovers(self) -> None:
        """Send what processes that have ended left behind for this store."""
        if self._leftovers is None and self._folder and left_behind(self._folder):
            self._leftovers = asyncio.create_task(self._send_leftovers(self._folder))

    async def stop(self) -> int:
        """Stop whatever is under way; how many items lie in the spool for the next process."""
        for task in (self._catching_up, self._leftovers):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        return self._let_go()

    def _let_go(self) -> int:
        path, safe = self._spool.path, 0
        for kept in self._kept:
            safe += kept.count if path and kept.parcel is None else 0
            for answer in kept.answers:
                settle(answer, None, StoreUnavailable("the tracer ended before the store was back"))
        if safe:
            logger.warning("%d spans and results wait in %s; the next runner here sends them", safe, path)
        self._spool.close()
        return safe

    def close_in_child(self) -> None:
        """The spool is the parent's: a child that kept it open would hold its lock."""
        self._spool.close()

    # On its way

    async def _send(self, parcel: Parcel) -> None:
        await self._sender.deliver(self._store, parcel)
        self._done(parcel.count)

    async def _arrives_soon(self, sending: asyncio.Task[None]) -> bool:
        try:
            for _ in range(round(PATIENCE_SECONDS / LOOK_SECONDS)):
                if (await asyncio.wait({sending}, timeout=LOOK_SECONDS))[0]:
                    return True
                if self._sender.waits or self._store.is_away:
                    return False
            return False
        except asyncio.CancelledError:
            sending.cancel()
            await asyncio.wait({sending})
            raise

    def keep(self, parcel: Parcel) -> bool:
        """Put the parcel into the spool; False when the disk does not take it, so that it waits in memory."""
        try:
            first = not self._kept
            self._spool.add(parcel.line())
        except (OSError, AgentLightningError) as error:
            logger.error("The store is away, and what it is to get cannot be written to disk: %s", error)
            self._kept.append(_Kept(parcel.count, parcel.answers, parcel))
            return False
        self._kept.append(_Kept(parcel.count, parcel.answers))
        if first and self._spool.path:
            logger.warning("The store does not answer. What is to be sent waits in %s", self._spool.path)
        return True

    async def _catch_up(self, first: asyncio.Task[None]) -> None:
        """Send what is in the spool, of which the first is on its way already."""
        await first
        self._drop_first()
        while self._kept:
            await self._send(self._first())
            self._drop_first()
        self._catching_up = None
        self.look_for_leftovers()

    def _first(self) -> Parcel:
        kept = self._kept[0]
        return kept.parcel or unpacked(self._spool.first(), count=kept.count, answers=kept.answers)

    def _drop_first(self) -> None:
        if self._kept.popleft().parcel is None:
            self._spool.drop_first()

    # What others left

    async def _send_leftovers(self, folder: Path) -> None:
        try:
            for path in left_behind(folder):
                with adopted(path) as file:
                    if file is not None:
                        await self._send_or_set_aside(path, file)
        except OSError as error:
            logger.warning("What an earlier process left for the store could not be read: %s", error)
        finally:
            self._leftovers = None

    async def _send_or_set_aside(self, path: Path, file: IO[bytes]) -> None:
        try:
            await self._send_file(path, file)
        except ValueError as error:  # damaged, or written by a release with other spans: it must not hold up the rest
            aside = sent(path, set_aside=True)
            logger.warning("What an earlier process left in %s is not ours to read: %s", aside, error)

    async def _send_file(self, path: Path, file: IO[bytes]) -> None:
        spans = reports = 0
        sender = Sender()
        for line in file:
            if not line.endswith(b"\n"):
                break  # its writer was killed in the middle of it
            parcel = unpacked(line)
            await sender.deliver(self._store, parcel)
            spans += len(parcel.spans)
            reports += _arrived(parcel)
        logger.info("Sent what an earlier process had left in %s: %d spans, %d results", path, spans, reports)
        if aside := sent(path, set_aside=sender.dropped > 0):
            logger.warning("What the store did not take of it stays in %s, for you to look at and delete", aside)


@dataclass(frozen=True)
class _Kept:
    """A parcel that waits: in the spool, unless it is here."""

    count: int
    answers: Sequence[Future[Attempt]]
    parcel: Parcel | None = None


def _arrived(parcel: Parcel) -> int:
    """How many of the parcel's reports the store has taken; those that it has not are told of."""
    errors = [error for answer in parcel.answers if (error := answer.exception())]
    for error in errors:
        logger.warning("A result that an earlier process left is not kept: %s", error)
    return len(parcel.reports) - len(errors)
