"""Run one attempt of a claimed rollout, and report the result to the store.

The agent's return value or exception is converted to an `Outcome`, so a failing agent does not crash the runner. All
of an attempt's spans are stored before its final status.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..adapter import find_final_reward
from ..emitter import emit_exception, emit_reward
from ..errors import Conflict, InvalidInput, NotFound
from ..store.lifecycle import timeout_reason
from ..types import AttemptedRollout, AttemptRef, NamedResources, Span
from .context import RunnerContext
from .outcome import Outcome, abandon, attach_to_attempt, invoke, outcome_of_error, reason_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cancellation:
    """The reason for cancelling an attempt, and flags that determine how the attempt is reported."""

    reason: str
    is_known: bool = False
    """True if the store has already ended the attempt and therefore no longer accepts a report."""
    is_lost: bool = False
    """True if the runner is stopping, was cancelled or has failed. The attempt is then reported as `unresponsive`
    instead of `failed`, because the agent is not at fault. If the agent has not started, the rollout is returned to the
    queue instead."""


class AttemptRun:
    """Runs one attempt in an asyncio task, which starts when the object is created."""

    def __init__(self, context: RunnerContext, rollout: AttemptedRollout) -> None:
        self.ref = AttemptRef(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id)
        self.is_abandoned = False
        """True once heartbeats must no longer include the attempt."""
        self._context = context
        self._rollout = rollout
        self._loop = asyncio.get_running_loop()
        self._start = time.monotonic()
        self._cancellation: asyncio.Future[Cancellation] = self._loop.create_future()
        self._has_started = False
        self._spans: list[Span] = []
        self._prefix = context.worker.log_prefix(rollout.rollout_id)
        self.task = asyncio.create_task(self._run_logged(), name=rollout.rollout_id)

    def seconds(self) -> float:
        """Return the time in seconds since the attempt started."""
        return time.monotonic() - self._start

    def cancel(self, cancellation: Cancellation) -> None:
        """Cancel the attempt. Only the first call has an effect. This method is thread-safe."""
        with suppress(RuntimeError):  # the event loop is closed, so the attempt has ended
            self._loop.call_soon_threadsafe(self._set_cancellation, cancellation)

    def _set_cancellation(self, cancellation: Cancellation) -> None:
        if not self._cancellation.done():
            self._cancellation.set_result(cancellation)

    async def _run_logged(self) -> None:
        try:
            await self._run()
        except Exception:
            logger.exception("%s Internal error; the attempt was not completed", self._prefix)

    async def _run(self) -> None:
        resources = await self._load_resources()
        await self._call_hooks("on_rollout_start")
        try:
            outcome = await self._run_traced(resources)
        except Exception as error:
            outcome = outcome_of_error(error)
        try:
            await self._report(outcome)
        except (Conflict, NotFound) as error:
            logger.warning("%s The result arrived too late and was dropped: %s", self._prefix, error)
        await self._call_hooks("on_rollout_end", spans=self._spans)

    async def _run_traced(self, resources: NamedResources | Outcome) -> Outcome:
        tracer = self._context.tracer
        async with tracer.trace_context(
            store=self._context.store, rollout_id=self.ref.rollout_id, attempt_id=self.ref.attempt_id, flush=False
        ):
            await self._call_hooks("on_trace_start", tracer=tracer)
            outcome = resources if isinstance(resources, Outcome) else await self._call_agent(resources)
            outcome = await self._store_returned_spans(outcome)
            await self._call_hooks("on_trace_end", tracer=tracer)
            outcome = self._emit(outcome)
        # The tracer may also have recorded the spans that the agent returned. Keep only the tracer's copies of them.
        spans = [*tracer.get_last_trace(), *self._spans]
        self._spans = list({span.span_id: span for span in reversed(spans)}.values())[::-1]
        return outcome

    async def _load_resources(self) -> NamedResources | Outcome:
        context, resources_id, version = self._context, self._rollout.resources_id, self._rollout.resources_version
        if resources_id is None:
            return {}
        try:
            return await context.retry.until_done(lambda: context.resources.get(context.store, resources_id, version))
        except Exception as error:
            return outcome_of_error(error)

    # The agent

    async def _call_agent(self, resources: NamedResources) -> Outcome:
        if self._cancellation.done():
            return self._cancelled()
        self._has_started = True
        call = asyncio.create_task(invoke(self._context.agent, self._rollout, resources))
        limit = self._rollout.config.timeout_seconds
        timeout = None if limit is None else max(0.0, limit - self.seconds())
        try:
            await asyncio.wait({call, self._cancellation}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            call.cancel()
            raise
        if call.done():
            return call.result()
        outcome = self._cancelled() if self._cancellation.done() else self._timed_out()
        if not await abandon(call):
            logger.warning("%s The agent did not stop after it was cancelled; it is left running.", self._prefix)
        return outcome

    def _timed_out(self) -> Outcome:
        reason = timeout_reason("timeout", self._rollout.config)
        return Outcome("timeout", error=TimeoutError(reason), reason=reason)

    def _cancelled(self) -> Outcome:
        cancellation = self._cancellation.result()
        return Outcome("unresponsive" if cancellation.is_lost else "failed", reason=cancellation.reason)

    # Results

    async def _store_returned_spans(self, outcome: Outcome) -> Outcome:
        if not outcome.spans:
            return outcome
        try:
            spans = [attach_to_attempt(span, self._rollout) for span in outcome.spans]
            # First store the spans that were recorded during the call, then the returned spans.
            await self._context.tracer.flush(self.ref.rollout_id, self.ref.attempt_id)
            await self._context.retry.until_done(lambda: self._context.store.add_many_spans(spans))
        except Exception as error:
            return outcome_of_error(error)
        self._spans = spans
        return outcome

    def _emit(self, outcome: Outcome) -> Outcome:
        try:
            if outcome.reward is not None:
                emit_reward(outcome.reward)
            if outcome.error is not None:
                emit_exception(outcome.error)
        except Exception as error:
            logger.exception("%s The outcome could not be recorded as a span", self._prefix)
            return outcome_of_error(error) if outcome.status == "succeeded" else outcome
        return outcome

    async def _report(self, outcome: Outcome) -> None:
        cancellation = self._cancellation.result() if self._cancellation.done() else None
        if cancellation and cancellation.is_known:
            await self._context.tracer.flush(self.ref.rollout_id, self.ref.attempt_id)
            logger.warning("%s Stopped after %.2fs: %s", self._prefix, self.seconds(), cancellation.reason)
        elif cancellation and not self._has_started:
            await self._context.store.update_rollout(self.ref.rollout_id, status="requeuing")
            logger.info("%s Returned to the queue before it started: %s", self._prefix, cancellation.reason)
        else:
            if outcome.status == "unresponsive":
                await self._context.runner.exclude_from_heartbeats(self)
            await self._update_attempt(outcome)
            self._log(outcome)

    async def _update_attempt(self, outcome: Outcome) -> None:
        report, store, ref = self._context.tracer.report, self._context.store, self.ref
        try:
            await report(store, ref.rollout_id, ref.attempt_id, outcome.status, outcome.metadata)
        except InvalidInput as error:
            # Only the metadata (reason and traceback) can be invalid. The status must be stored regardless.
            metadata = {"reason": f"the reason could not be stored: {reason_of(error)}"}
            await report(store, ref.rollout_id, ref.attempt_id, outcome.status, metadata)

    def _log(self, outcome: Outcome) -> None:
        count = "1 span" if len(self._spans) == 1 else f"{len(self._spans)} spans"
        reward = find_final_reward(self._spans)
        produced = f"{count}, final reward {reward if reward is None else format(reward, 'g')}."
        if outcome.status == "succeeded":
            logger.info("%s Completed in %.2fs. %s", self._prefix, self.seconds(), produced)
            return
        # Log the traceback as text instead of passing exc_info: the agent's error may contain characters that the log
        # file's encoding cannot represent.
        trace = f"\n{outcome.traceback}" if outcome.traceback else ""
        logger.error("%s Failed in %.2fs. %s (%s)%s", self._prefix, self.seconds(), outcome.reason, produced, trace)

    async def _call_hooks(self, name: str, **arguments: Any) -> None:
        context = self._context
        for hook in context.hooks:
            try:
                await getattr(hook, name)(
                    agent=context.agent, runner=context.runner, rollout=self._rollout, **arguments
                )
            except Exception:
                logger.exception("%s The hook %s.%s failed", self._prefix, type(hook).__name__, name)
