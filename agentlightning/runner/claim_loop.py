"""Claim rollouts while slots are free; finish or return them when the runner is to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ..types import AttemptedRollout
from .attempt import AttemptRun, Cancellation
from .context import RunnerContext
from .shutdown import StopRequest

logger = logging.getLogger(__name__)

REPORT_TIMEOUT: Final = 6.0
"""Total time to report cancelled attempts: an unreachable store must not delay the exit for long."""


@dataclass(frozen=True)
class RunnerLimits:
    """Limits of a runner's work."""

    max_rollouts: int | None
    max_concurrency: int
    poll_interval: float
    drain_seconds: float


class ClaimLoop:
    """Claims rollouts until `stop` is set or `max_rollouts` are claimed."""

    def __init__(
        self,
        context: RunnerContext,
        limits: RunnerLimits,
        stop: StopRequest,
        start: Callable[[AttemptedRollout], AttemptRun],
    ) -> None:
        self._context = context
        self._limits = limits
        self._stop = stop
        self._start_attempt = start
        self._running: dict[asyncio.Task[None], AttemptRun] = {}
        self._claim: asyncio.Task[list[AttemptedRollout]] | None = None
        self.claimed = 0

    async def run(self) -> None:
        """Claim and run rollouts, then wait for those that were started."""
        try:
            await self._claim_until_stopped()
            await self._withdraw_claim()
            await self._drain()
        except BaseException as error:
            await self._withdraw_claim()
            is_cancelled = isinstance(error, asyncio.CancelledError)
            await self._cancel_running("its runner was cancelled" if is_cancelled else "its runner failed")
            raise

    # Claiming

    async def _claim_until_stopped(self) -> None:
        while not self._stop.is_set and self._remaining() > 0:
            free = min(self._limits.max_concurrency - len(self._running), self._remaining())
            if free > 0:
                await self._claim_up_to(free)
            else:
                await self._wait_for_stop_or(*self._running)

    def _remaining(self) -> int:
        maximum = self._limits.max_rollouts
        return self._limits.max_concurrency if maximum is None else maximum - self.claimed

    async def _claim_up_to(self, count: int) -> None:
        self._claim = asyncio.create_task(self._dequeue(count))
        await self._wait_for_stop_or(self._claim)
        if self._claim.done():
            claim, self._claim = self._claim, None
            self._start(claim.result())

    async def _dequeue(self, count: int) -> list[AttemptedRollout]:
        store, until_done = self._context.store, self._context.retry.until_done
        worker_id, wait = self._context.worker.worker_id, self._limits.poll_interval
        if count > 1:
            return await until_done(lambda: store.dequeue_many_rollouts(limit=count, worker_id=worker_id, wait=wait))
        claimed = await until_done(lambda: store.dequeue_rollout(worker_id=worker_id, wait=wait))
        return [] if claimed is None else [claimed]

    def _start(self, rollouts: list[AttemptedRollout]) -> None:
        for rollout in rollouts:
            self.claimed += 1
            run = self._start_attempt(rollout)
            self._running[run.task] = run
            run.task.add_done_callback(self._running.pop)

    async def _wait_for_stop_or(self, *tasks: asyncio.Task[Any]) -> None:
        await asyncio.wait({*tasks, self._stop.reason}, return_when=asyncio.FIRST_COMPLETED)

    # Stopping

    async def _withdraw_claim(self) -> None:
        """Cancel the claim in progress. A cancelled claim takes no rollout, unless it was faster than that."""
        claim, self._claim = self._claim, None
        if claim is None:
            return
        claim.cancel()
        await asyncio.wait({claim}, timeout=REPORT_TIMEOUT)
        if claim.done() and not claim.cancelled() and not claim.exception():
            self._start(claim.result())

    async def _drain(self) -> None:
        while self._running and not self._stop.is_set:
            await self._wait_for_stop_or(*self._running)
        if not self._running:
            return
        prefix, reason = self._context.worker.log_prefix(), self._stop.reason.result()
        logger.info("%s Stopping (reason: %s) with %d running.", prefix, reason, len(self._running))
        await asyncio.wait(self._running, timeout=self._limits.drain_seconds)
        await self._cancel_running(f"its runner was stopped: {reason}")

    async def _cancel_running(self, reason: str) -> None:
        for run in self._running.values():
            run.cancel(Cancellation(reason, is_lost=True))
        if self._running:
            await asyncio.wait(self._running, timeout=REPORT_TIMEOUT)
        if not self._running:
            return
        prefix = self._context.worker.log_prefix()
        logger.warning("%s %d attempts could not be reported to the store.", prefix, len(self._running))
        for task in self._running:
            task.cancel()
        await asyncio.wait(self._running)
