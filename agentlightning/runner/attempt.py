"""One attempt, from its claim to its report.

Whatever happens to it becomes an `Outcome`: a bad rollout is data, not a crash. Everything it produced is in the store
before its status is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..adapter import find_final_reward
from ..emitter import emit_exception, emit_reward
from ..errors import AgentLightningError, Conflict, InvalidInput, NotFound, ResourceMissing
from ..litagent import LitAgent
from ..store import LightningStore
from ..store.lifecycle import why
from ..tracer import Tracer
from ..types import AttemptedRollout, AttemptRef, Hook, NamedResources, Span
from .invoke import Raised, Returned, call, let_go
from .outcome import Outcome, bound, raised, reason_of, returned
from .patience import Patience
from .resource_cache import ResourceCache
from .worker_name import WorkerName

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """What the attempts of one runner share."""

    runner: Any
    agent: LitAgent[Any]
    tracer: Tracer
    store: LightningStore
    hooks: Sequence[Hook]
    worker: WorkerName
    patience: Patience
    resources: ResourceCache = field(default_factory=ResourceCache)

    @property
    def agent_name(self) -> str:
        """How the agent is called in messages."""
        return getattr(self.agent, "__name__", None) or type(self.agent).__name__


@dataclass(frozen=True)
class Halt:
    """Why an attempt is broken off."""

    reason: str
    reported: bool = False
    """The store knows already, and wants to hear nothing more of it."""
    lost: bool = False
    """Its runner leaves it, which says nothing of the agent: `unresponsive`, as if the runner had died."""


class AttemptRun:
    """Carries out one attempt."""

    def __init__(self, bench: Bench, rollout: AttemptedRollout) -> None:
        self.ref = AttemptRef(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id)
        self._bench = bench
        self._rollout = rollout
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self._halted: asyncio.Future[Halt] = self._loop.create_future()
        self._called = False
        self._spans: list[Span] = []
        self.is_left = False
        """Its runner leaves it unfinished."""
        self._who = bench.worker.about(rollout.rollout_id)

    def halt(self, cause: Halt) -> None:
        """Break it off; the first cause counts. For any thread."""
        with suppress(RuntimeError):  # its event loop is closed, so it has ended
            self._loop.call_soon_threadsafe(self._halt, cause)

    async def run(self) -> None:
        """Carry it out. Raises nothing that the agent, a hook or the tracer does."""
        resources = await self._resources()
        await self._hook("on_rollout_start")
        try:
            outcome = await self._traced(resources)
        except Exception as error:
            outcome = raised(error)
        await self._report(outcome)
        await self._hook("on_rollout_end", spans=self._spans)

    async def _traced(self, resources: NamedResources | Outcome) -> Outcome:
        tracer = self._bench.tracer
        async with tracer.trace_context(
            store=self._bench.store, rollout_id=self.ref.rollout_id, attempt_id=self.ref.attempt_id, flush=False
        ):
            await self._hook("on_trace_start", tracer=tracer)
            outcome = resources if isinstance(resources, Outcome) else await self._call_agent(resources)
            outcome = await self._store_spans(outcome)
            await self._hook("on_trace_end", tracer=tracer)
            outcome = self._emit(outcome)
        self._spans = _each_once([*tracer.get_last_trace(), *self._spans])
        return outcome

    async def _resources(self) -> NamedResources | Outcome:
        """What the agent is to use, or what it means that this cannot be had."""
        rollout, bench = self._rollout, self._bench
        if rollout.resources_id is None:
            return {}
        asked = (rollout.resources_id, rollout.resources_version)
        try:
            found = await bench.patience.until_done(lambda: bench.resources.get(bench.store, *asked))
        except Exception as error:
            return raised(error)
        if found is None:
            return raised(ResourceMissing(f"the resources {asked[0]} (version {asked[1]}) are not in the store"))
        return found

    # The agent

    async def _call_agent(self, resources: NamedResources) -> Outcome:
        if self._halted.done():
            return self._broken_off()
        self._called = True
        try:
            method = self._bench.agent.method_for(self._rollout.mode)
        except AgentLightningError as error:
            return raised(error)
        return await self._outcome_of(call(method, self._rollout.input, resources, self._rollout))

    async def _outcome_of(self, work: asyncio.Task[Returned | Raised]) -> Outcome:
        try:
            await asyncio.wait({work, self._halted}, timeout=self._seconds_left(), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            work.cancel()
            raise
        if work.done():
            match work.result():
                case Returned(value):
                    return returned(value, by=self._bench.agent_name)
                case Raised(error):
                    return raised(error)
        outcome = self._broken_off() if self._halted.done() else self._timed_out()
        if not await let_go(work):
            logger.warning("%s The agent ignores its cancellation; it is left behind.", self._who)
        return outcome

    def _seconds_left(self) -> float | None:
        limit = self._rollout.config.timeout_seconds
        return None if limit is None else max(0.0, self._began + limit - time.monotonic())

    def _timed_out(self) -> Outcome:
        reason = why("timeout", self._rollout.config)
        return Outcome("timeout", error=TimeoutError(reason), reason=reason)

    def _broken_off(self) -> Outcome:
        halt = self._halted.result()
        return Outcome("unresponsive" if halt.lost else "failed", reason=halt.reason)

    def _halt(self, cause: Halt) -> None:
        if not self._halted.done():
            self._halted.set_result(cause)

    # What it produced

    async def _store_spans(self, outcome: Outcome) -> Outcome:
        if not outcome.spans:
            return outcome
        try:
            self._spans = [bound(span, self._rollout) for span in outcome.spans]
            # What the agent did comes before what it says of it.
            await self._bench.tracer.flush(self.ref.rollout_id, self.ref.attempt_id)
            await self._bench.patience.until_done(lambda: self._bench.store.add_many_spans(self._spans))
        except Exception as error:
            self._spans = []
            return raised(error)
        return outcome

    def _emit(self, outcome: Outcome) -> Outcome:
        try:
            if outcome.reward is not None:
                emit_reward(outcome.reward)
            if outcome.error is not None:
                emit_exception(outcome.error)
        except Exception as error:
            logger.exception("%s What came of it could not be made a span", self._who)
            return raised(error) if outcome.status == "succeeded" else outcome
        return outcome

    # The report

    async def _report(self, outcome: Outcome) -> None:
        halt = self._halted.result() if self._halted.done() else None
        if halt and halt.reported:
            await self._bench.tracer.flush(self.ref.rollout_id, self.ref.attempt_id)
            logger.warning("%s Stopped after %.2fs: %s", self._who, self._seconds(), halt.reason)
            return
        try:
            if halt and not self._called:
                await self._give_back(halt)
            else:
                if outcome.status == "unresponsive":
                    await self._bench.runner.leave(self)
                await self._update(outcome)
                self._log(outcome)
        except (Conflict, NotFound) as error:
            logger.warning("%s Its result comes too late and is not kept: %s", self._who, error)

    async def _update(self, outcome: Outcome) -> None:
        try:
            await self._update_attempt(outcome, outcome.metadata)
        except InvalidInput as error:
            # The words are to blame, then; the status still has to get through.
            await self._update_attempt(outcome, {"reason": f"its reason could not be stored: {reason_of(error)}"})

    async def _update_attempt(self, outcome: Outcome, metadata: dict[str, Any]) -> None:
        ref, bench = self.ref, self._bench
        await bench.tracer.report(bench.store, ref.rollout_id, ref.attempt_id, outcome.status, metadata)

    async def _give_back(self, halt: Halt) -> None:
        await give_back(self._bench.store, self.ref)
        logger.info("%s Given back before it began: %s", self._who, halt.reason)

    def _log(self, outcome: Outcome) -> None:
        count = "1 span" if len(self._spans) == 1 else f"{len(self._spans)} spans"
        reward = find_final_reward(self._spans)
        produced = f"{count}, final reward {reward if reward is None else format(reward, 'g')}."
        if outcome.status == "succeeded":
            logger.info("%s Completed in %.2fs. %s", self._who, self._seconds(), produced)
            return
        # As text, not as exc_info: an agent's error may hold what a log file's encoding refuses.
        trace = f"\n{outcome.traceback}" if outcome.traceback else ""
        logger.error("%s Failed in %.2fs. %s (%s)%s", self._who, self._seconds(), outcome.reason, produced, trace)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    async def _hook(self, name: str, **more: Any) -> None:
        bench = self._bench
        for hook in bench.hooks:
            try:
                await getattr(hook, name)(agent=bench.agent, runner=bench.runner, rollout=self._rollout, **more)
            except Exception:
                logger.exception("%s The hook %s.%s failed", self._who, type(hook).__name__, name)


async def give_back(store: LightningStore, ref: AttemptRef) -> None:
    """Put the rollout of an attempt that has not begun back in the queue."""
    with suppress(Conflict, NotFound):
        await store.update_rollout(ref.rollout_id, status="requeuing")


def _each_once(spans: list[Span]) -> list[Span]:
    # An agent may return what the tracer has seen as well.
    return list({span.span_id: span for span in reversed(spans)}.values())[::-1]
