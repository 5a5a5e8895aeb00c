"""The loop that claims rollouts while there is room, and sees them through when it is to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ..types import AttemptedRollout, AttemptRef
from .attempt import AttemptRun, Bench, Halt
from .shutdown import Stop

logger = logging.getLogger(__name__)

GIVE_BACK_SECONDS: Final = 6.0
"""How long giving back may take in all: a store that is away must not hold up the exit."""


@dataclass(frozen=True)
class Limits:
    """How much a runner takes on."""

    max_rollouts: int | None
    max_concurrency: int
    poll_interval: float
    drain_seconds: float


class ClaimLoop:
    """Claims until told to stop; what it then holds is finished or given back."""

    def __init__(
        self,
        bench: Bench,
        limits: Limits,
        stop: Stop,
        held: Mapping[AttemptRef, AttemptRun],
        begin: Callable[[AttemptedRollout], asyncio.Task[None]],
    ) -> None:
        self._bench = bench
        self._limits = limits
        self._stop = stop
        self._held = held
        self._begin = begin
        self._slots: set[asyncio.Task[None]] = set()
        self._claim: asyncio.Task[list[AttemptedRollout]] | None = None
        self.claimed = 0

    async def run(self) -> None:
        """Go on until `stop` or `max_rollouts`, then wait for what was begun."""
        try:
            await self._claim_until_stopped()
            await self._withdraw()
            await self._drain()
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            await self._withdraw()
            await self._halt("its runner was cancelled" if cancelled else "its runner failed")
            raise

    # Claiming

    async def _claim_until_stopped(self) -> None:
        while not self._stop.is_set and self._left() > 0:
            room = min(self._limits.max_concurrency - len(self._slots), self._left())
            if room > 0:
                await self._claim_some(room)
            else:
                await self._until_stop_or(*self._slots)

    def _left(self) -> int:
        most = self._limits.max_rollouts
        return self._limits.max_concurrency if most is None else most - self.claimed

    async def _claim_some(self, room: int) -> None:
        self._claim = asyncio.create_task(self._dequeue(room))
        await self._until_stop_or(self._claim)
        if self._claim.done():
            claim, self._claim = self._claim, None
            for rollout in claim.result():
                self._start(rollout)

    async def _dequeue(self, room: int) -> list[AttemptedRollout]:
        store, until_done = self._bench.store, self._bench.patience.until_done
        worker_id, wait = self._bench.worker.worker_id, self._limits.poll_interval
        if room > 1:
            return await until_done(lambda: store.dequeue_many_rollouts(limit=room, worker_id=worker_id, wait=wait))
        claimed = await until_done(lambda: store.dequeue_rollout(worker_id=worker_id, wait=wait))
        return [] if claimed is None else [claimed]

    def _start(self, rollout: AttemptedRollout) -> None:
        self.claimed += 1
        slot = self._begin(rollout)
        self._slots.add(slot)
        slot.add_done_callback(self._slots.discard)

    async def _until_stop_or(self, *tasks: asyncio.Task[None] | asyncio.Task[list[AttemptedRollout]]) -> None:
        await asyncio.wait({*tasks, self._stop.asked}, return_when=asyncio.FIRST_COMPLETED)

    # Stopping

    async def _drain(self) -> None:
        while self._slots and not self._stop.is_set:
            await self._until_stop_or(*self._slots)
        if not self._slots:
            return
        reason = self._stop.asked.result()
        logger.info("%s Stopping, since %s: %d running.", self._bench.worker.about(), reason, len(self._slots))
        await asyncio.wait(self._slots, timeout=self._limits.drain_seconds)
        await self._halt(f"its runner was stopped: {reason}")

    async def _halt(self, reason: str) -> None:
        for run in list(self._held.values()):
            run.halt(Halt(reason, lost=True))
        if self._slots:
            await asyncio.wait(self._slots, timeout=GIVE_BACK_SECONDS)
        for slot in list(self._slots):
            slot.cancel()
        if self._slots:
            logger.warning(
                "%s The store could not be told of %d attempts.", self._bench.worker.about(), len(self._slots)
            )
            await asyncio.wait(self._slots)

    async def _withdraw(self) -> None:
        """End the claim under way; what it may have claimed all the same goes back to the queue."""
        claim, self._claim = self._claim, None
        if claim is None:
            return
        claim.cancel()
        await asyncio.wait({claim}, timeout=GIVE_BACK_SECONDS)
        # A claim that is cancelled claims nothing; this one may have been quicker.
        if claim.done() and not claim.cancelled() and not claim.exception():
            for rollout in claim.result():
                self._start(rollout)
