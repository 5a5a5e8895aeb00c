"""The claim loop of a runner: claims rollouts, runs them concurrently, and ends them cleanly when told to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ..concurrency import sigterm_handler
from ..types import AttemptedRollout
from .attempt import AttemptRun, Cancellation
from .context import RunnerContext

logger = logging.getLogger(__name__)

REPORT_TIMEOUT: Final = 6.0
"""Timeout in seconds for withdrawing a claim request, and for reporting all cancelled attempts. It prevents an
unreachable store from delaying the runner's exit for long."""
POLL_INTERVAL_STOP_EVENT: Final = 0.05
"""Time in seconds between checks of the stop event. The event is polled because there is no common way to wait for
threading, multiprocessing and asyncio events."""


@dataclass(frozen=True)
class RunnerLimits:
    """Limits of a runner, described in `LitAgentRunner`. Durations are in seconds."""

    max_rollouts: int | None
    max_concurrency: int
    poll_interval: float
    drain_seconds: float


class StopEvent(Protocol):
    """An event that tells a runner to stop: an `Event` from threading, multiprocessing or asyncio."""

    def is_set(self) -> bool:
        """Return True once the event is set."""
        ...


class StopRequest:
    """A flag that tells the runner to stop, together with the reason."""

    def __init__(self) -> None:
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_terminated = False
        """True if SIGTERM has been received."""

    @property
    def is_set(self) -> bool:
        """True once a stop has been requested."""
        return self.reason.done()

    def set(self, reason: str) -> None:
        """Request a stop for the given reason. Later calls have no effect."""
        if not self.is_set:
            self.reason.set_result(reason)

    def terminate(self) -> None:
        """Request a stop because of SIGTERM."""
        self.is_terminated = True
        self.set("SIGTERM")


@contextmanager
def stop_request(event: StopEvent | None) -> Generator[StopRequest]:
    """Yield a `StopRequest` that is set when `event` is set or SIGTERM is received during the block."""
    request = StopRequest()
    watch = asyncio.create_task(_watch(event, request)) if event is not None else None
    try:
        with sigterm_handler(request.terminate):
            yield request
    finally:
        if watch is not None:
            watch.cancel()


async def _watch(event: StopEvent, request: StopRequest) -> None:
    while not event.is_set():  # noqa: ASYNC110 - see POLL_INTERVAL_STOP_EVENT
        await asyncio.sleep(POLL_INTERVAL_STOP_EVENT)
    request.set("the stop event was set")


@dataclass
class ClaimLoop:
    """Claims and runs rollouts until `stop` is set or `max_rollouts` rollouts have been claimed."""

    context: RunnerContext
    limits: RunnerLimits
    stop: StopRequest
    start_attempt: Callable[[AttemptedRollout], AttemptRun]
    claimed: int = 0
    _running: dict[asyncio.Task[None], AttemptRun] = field(default_factory=dict[asyncio.Task[None], AttemptRun])
    _claim: asyncio.Task[list[AttemptedRollout]] | None = None

    async def run(self) -> None:
        """Claim and run rollouts, and return when no claimed rollout is running any more.

        After a stop request, running rollouts are given `drain_seconds` to finish, and the rest are cancelled. If this
        coroutine fails or is cancelled, running rollouts are cancelled immediately.
        """
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
        while not self.stop.is_set and self._remaining() > 0:
            free = min(self.limits.max_concurrency - len(self._running), self._remaining())
            if free > 0:
                await self._claim_up_to(free)
            else:
                await self._wait_for_stop_or(*self._running)

    def _remaining(self) -> int:
        maximum = self.limits.max_rollouts
        return self.limits.max_concurrency if maximum is None else maximum - self.claimed

    async def _claim_up_to(self, count: int) -> None:
        self._claim = asyncio.create_task(self._dequeue(count))
        await self._wait_for_stop_or(self._claim)
        if self._claim.done():
            claim, self._claim = self._claim, None
            self._start(claim.result())

    async def _dequeue(self, count: int) -> list[AttemptedRollout]:
        store, until_done = self.context.store, self.context.retry.until_done
        worker_id, wait = self.context.worker.worker_id, self.limits.poll_interval
        if count > 1:
            return await until_done(lambda: store.dequeue_many_rollouts(limit=count, worker_id=worker_id, wait=wait))
        claimed = await until_done(lambda: store.dequeue_rollout(worker_id=worker_id, wait=wait))
        return [] if claimed is None else [claimed]

    def _start(self, rollouts: list[AttemptedRollout]) -> None:
        for rollout in rollouts:
            self.claimed += 1
            run = self.start_attempt(rollout)
            self._running[run.task] = run
            run.task.add_done_callback(self._running.pop)

    async def _wait_for_stop_or(self, *tasks: asyncio.Task[Any]) -> None:
        await asyncio.wait({*tasks, self.stop.reason}, return_when=asyncio.FIRST_COMPLETED)

    # Stopping

    async def _withdraw_claim(self) -> None:
        """Cancel the claim request in progress, if any. If it has already claimed rollouts, start them."""
        claim, self._claim = self._claim, None
        if claim is None:
            return
        claim.cancel()
        await asyncio.wait({claim}, timeout=REPORT_TIMEOUT)
        if claim.done() and not claim.cancelled() and not claim.exception():
            self._start(claim.result())

    async def _drain(self) -> None:
        while self._running and not self.stop.is_set:
            await self._wait_for_stop_or(*self._running)
        if not self._running:
            return
        prefix, reason = self.context.worker.log_prefix(), self.stop.reason.result()
        logger.info("%s Stopping (reason: %s) with %d rollouts running.", prefix, reason, len(self._running))
        await asyncio.wait(self._running, timeout=self.limits.drain_seconds)
        await self._cancel_running(f"its runner was stopped: {reason}")

    async def _cancel_running(self, reason: str) -> None:
        for run in self._running.values():
            run.cancel(Cancellation(reason, is_lost=True))
        if self._running:
            await asyncio.wait(self._running, timeout=REPORT_TIMEOUT)
        if not self._running:
            return
        prefix = self.context.worker.log_prefix()
        logger.warning("%s %d attempts could not be reported to the store.", prefix, len(self._running))
        for task in self._running:
            task.cancel()
        await asyncio.wait(self._running)
