"""Runners, which run an agent on the rollouts in a store: the base class and LitAgentRunner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Generic, Self, TypeVar

from ..concurrency import heartbeat
from ..litagent import LitAgent, as_agent
from ..logs import ensure_logging
from ..store import LightningStore
from ..tracer import Tracer
from ..types import AttemptedRollout, AttemptRef, Hook, NamedResources, Rollout, RolloutMode
from .attempt import AttemptRun, Cancellation
from .claim_loop import REPORT_TIMEOUT, ClaimLoop, RunnerLimits, StopEvent, stop_request
from .context import RunnerContext, StoreRetry, system_info, worker_name

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_INTERVAL_HEARTBEAT: Final = 0.01
NEW_ATTEMPT_SECONDS: Final = 0.5
"""Seconds after which a new attempt is reported in an extra heartbeat, before the next regular heartbeat, so that its
status becomes `running` within 1 s."""


class Runner(Generic[T]):
    """Base class of runners that run rollouts for tasks of type `T`. Use a runner inside its `run_context`."""

    @contextmanager
    def run_context(
        self,
        *,
        agent: LitAgent[T] | Callable[..., Any],
        store: LightningStore,
        hooks: Sequence[Hook] | None = None,
        worker_id: int | str | None = None,
    ) -> Generator[Self]:
        """Prepare to run `agent` on rollouts from `store`. Call `iter` or `step` inside the `with` block.

        If `worker_id` is a number, the log shows the number, and the store shows a unique name derived from it. If
        `worker_id` is a string, both show it unchanged. If it is None, a free number is used.
        """
        ensure_logging()
        with ExitStack() as stack:
            self.init(agent, hooks=hooks)
            stack.callback(self.teardown)
            self.init_worker(worker_id, store)
            stack.callback(self.teardown_worker)
            yield self

    def init(self, agent: LitAgent[T] | Callable[..., Any], *, hooks: Sequence[Hook] | None = None) -> None:
        """Set the agent and the hooks. Called before `init_worker`."""
        raise NotImplementedError

    def init_worker(self, worker_id: int | str | None, store: LightningStore) -> None:
        """Start the worker's background services. Called in the process that runs the rollouts."""
        raise NotImplementedError

    def teardown_worker(self) -> None:
        """Stop the worker's background services."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Clear the agent and the hooks."""
        raise NotImplementedError

    async def iter(self, event: StopEvent | None = None) -> None:
        """Claim and run rollouts until `event` is set or the maximum number of rollouts has been claimed."""
        raise NotImplementedError

    async def step(self, input: T, resources: NamedResources | None = None, mode: RolloutMode | None = None) -> Rollout:
        """Run a rollout for `input` without queuing it, and return the finished rollout."""
        raise NotImplementedError


class LitAgentRunner(Runner[T]):
    """Runs up to `max_concurrency` rollouts concurrently: async agents as tasks, sync agents in threads.

    `max_rollouts` is the maximum number of rollouts that `iter` claims, or None for no limit. `poll_interval` is the
    maximum number of seconds that a claim request waits for a rollout. When the runner has to stop, running agents are
    given `drain_seconds` to finish. A heartbeat is sent every `heartbeat_interval` seconds. The store's responses to
    heartbeats and to uploaded spans list the attempts that are no longer active in the store, and the runner cancels
    these attempts.
    """

    def __init__(
        self,
        tracer: Tracer,
        max_rollouts: int | None = None,
        poll_interval: float = 5.0,
        heartbeat_interval: float = 10.0,
        max_concurrency: int = 1,
        drain_seconds: float = 10.0,
    ) -> None:
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}")
        self._tracer = tracer
        self._limits = RunnerLimits(max_rollouts, max_concurrency, poll_interval, drain_seconds)
        self._heartbeat_interval = heartbeat_interval
        self._agent: LitAgent[Any] | None = None
        self._hooks: Sequence[Hook] = ()
        self._current_context: RunnerContext | None = None
        self._services = ExitStack()
        self._active: dict[AttemptRef, AttemptRun] = {}
        self._announced: set[AttemptRef] = set()
        """Attempts that have been reported to the store in a heartbeat."""
        self._heartbeats_in_progress = 0
        self._finished = 0

    # Setup and teardown

    def init(self, agent: LitAgent[T] | Callable[..., Any], *, hooks: Sequence[Hook] | None = None) -> None:
        self._agent = as_agent(agent)
        self._hooks = tuple(hooks or ())

    def init_worker(self, worker_id: int | str | None, store: LightningStore) -> None:
        if self._agent is None:
            raise RuntimeError("the runner has no agent: call init(agent) first, or use run_context")
        with ExitStack() as services:
            worker = services.enter_context(worker_name(worker_id))
            self._tracer.init_worker(worker.label, store)
            services.callback(self._tracer.teardown_worker)
            services.enter_context(self._tracer.subscribe_abandoned(self._cancel_given_up))
            self._current_context = RunnerContext(
                self, self._agent, self._tracer, store, self._hooks, worker, StoreRetry(worker)
            )
            name, has_changes = f"heartbeat-{worker.label}", self._has_unannounced_attempts
            services.enter_context(heartbeat(self.beat, self._heartbeat_interval, name=name, has_changes=has_changes))
            self._services = services.pop_all()

    def teardown_worker(self) -> None:
        self._services.close()
        self._current_context = None

    def teardown(self) -> None:
        self._agent, self._hooks = None, ()

    # Rollouts

    async def iter(self, event: StopEvent | None = None) -> None:
        """Claim and run rollouts until `event` is set, SIGTERM is received, or `max_rollouts` have been claimed.

        After SIGTERM, raises SystemExit once every attempt has finished, been reported as `unresponsive`, or been
        returned to the queue.
        """
        context, maximum = self._context, self._limits.max_rollouts
        prefix = context.worker.log_prefix()
        with stop_request(event) as stop:
            logger.info("%s Started async rollouts (max: %s).", prefix, "unlimited" if maximum is None else maximum)
            loop = ClaimLoop(context, self._limits, stop, self._start)
            await loop.run()
        logger.info("%s Finished async rollouts: %d.", prefix, loop.claimed)
        if stop.is_terminated:
            raise SystemExit(0)

    async def step(self, input: T, resources: NamedResources | None = None, mode: RolloutMode | None = None) -> Rollout:
        """Run a rollout for `input` without queuing it, and return the finished rollout.

        If `resources` are given, they are added to the store and become its latest resources. Otherwise, the rollout
        uses the resources that are already the latest.
        """
        context = self._context
        store = context.store
        resources_id = None if resources is None else (await store.add_resources(resources)).resources_id
        rollout = await store.start_rollout(input, mode, resources_id, worker_id=context.worker.worker_id)
        run = self._start(rollout)
        try:
            await asyncio.shield(run.task)
        except asyncio.CancelledError:
            run.cancel(Cancellation("the call to step was cancelled"))
            await asyncio.wait({run.task}, timeout=REPORT_TIMEOUT)
            raise
        return await store.get_rollout_by_id(rollout.rollout_id) or rollout

    async def beat(self) -> None:
        """Send one heartbeat for all running attempts, and cancel those that are no longer active in the store."""
        context = self._context
        stats = {**system_info(), "running": len(self._active), "finished": self._finished}
        self._heartbeats_in_progress += 1
        try:
            attempts = self._heartbeat_attempts()
            worker = await context.store.update_worker(context.worker.worker_id, stats, attempts=attempts)
        finally:
            self._heartbeats_in_progress -= 1
        self._announced = set(attempts)
        for ref in worker.stale_attempts:
            self._cancel_given_up(ref)

    async def exclude_from_heartbeats(self, run: AttemptRun) -> None:
        """Exclude the attempt from later heartbeats, and wait until no heartbeat is in progress.

        A heartbeat that arrived after the attempt had been reported as `unresponsive` would reactivate the attempt.
        """
        run.is_abandoned = True
        while self._heartbeats_in_progress:  # noqa: ASYNC110 - heartbeats are sent by another thread
            await asyncio.sleep(POLL_INTERVAL_HEARTBEAT)

    @property
    def worker_id(self) -> str:
        """Name of this runner's worker in the store."""
        return self._context.worker.worker_id

    @property
    def _context(self) -> RunnerContext:
        if self._current_context is None:
            raise RuntimeError("the runner is not ready: use it inside `with runner.run_context(agent=…, store=…)`")
        return self._current_context

    def _heartbeat_attempts(self, min_seconds: float = 0.0) -> list[AttemptRef]:
        runs = list(self._active.values())
        return [run.ref for run in runs if not run.is_abandoned and run.seconds() >= min_seconds]

    def _has_unannounced_attempts(self) -> bool:
        return not self._announced.issuperset(self._heartbeat_attempts(NEW_ATTEMPT_SECONDS))

    def _cancel_given_up(self, ref: AttemptRef) -> None:
        reason = "the store has ended this attempt (cancelled, timed out or superseded)"
        if run := self._active.get(ref):
            run.cancel(Cancellation(reason, is_known=True))

    def _start(self, rollout: AttemptedRollout) -> AttemptRun:
        run = AttemptRun(self._context, rollout)
        self._active[run.ref] = run
        run.task.add_done_callback(lambda _: self._end(run))
        return run

    def _end(self, run: AttemptRun) -> None:
        self._finished += 1
        del self._active[run.ref]
