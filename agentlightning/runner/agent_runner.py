"""Runner, the base class of runners, and LitAgentRunner, which runs an agent on rollouts from a store."""

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
"""Age in seconds at which a new attempt triggers an extra heartbeat before the next regular one. The extra heartbeat
changes the attempt's status in the store to `running`, normally within 1 s of the claim."""


class Runner(Generic[T]):
    """Base class of runners, which run an agent on tasks of type `T`.

    Use a runner inside a `with runner.run_context(…)` block.
    """

    @contextmanager
    def run_context(
        self,
        *,
        agent: LitAgent[T] | Callable[..., Any],
        store: LightningStore,
        hooks: Sequence[Hook] | None = None,
        worker_id: int | str | None = None,
    ) -> Generator[Self]:
        """Set up the runner to run `agent` on rollouts from `store`. Call `iter` or `step` inside the `with` block.

        If `worker_id` is a string, it is the runner's name in the log and in the store. If it is a number, the log
        shows that number, and the store shows a unique name derived from it. If it is None, the runner chooses the
        number.
        """
        ensure_logging()
        with ExitStack() as stack:
            self.init(agent, hooks=hooks)
            stack.callback(self.teardown)
            self.init_worker(worker_id, store)
            stack.callback(self.teardown_worker)
            yield self

    def init(self, agent: LitAgent[T] | Callable[..., Any], *, hooks: Sequence[Hook] | None = None) -> None:
        """Set the agent and the hooks. `run_context` calls this method before `init_worker`."""
        raise NotImplementedError

    def init_worker(self, worker_id: int | str | None, store: LightningStore) -> None:
        """Connect the runner to `store` and start its background services, such as heartbeats.

        Called in the process that runs the rollouts. `run_context` describes `worker_id`.
        """
        raise NotImplementedError

    def teardown_worker(self) -> None:
        """Stop the background services that `init_worker` started."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Discard the agent and the hooks that `init` set."""
        raise NotImplementedError

    async def iter(self, event: StopEvent | None = None) -> None:
        """Claim and run rollouts until `event` is set or the runner has claimed its maximum number of rollouts."""
        raise NotImplementedError

    async def step(self, input: T, resources: NamedResources | None = None, mode: RolloutMode | None = None) -> Rollout:
        """Run a rollout for the task `input` immediately, bypassing the queue, and return the finished rollout."""
        raise NotImplementedError


class LitAgentRunner(Runner[T]):
    """Runs async agents in asyncio tasks and sync agents in threads.

    Each call of `iter` claims at most `max_rollouts` rollouts, or an unlimited number if that is None, and runs at most
    `max_concurrency` of them at a time. If the queue is empty, a claim request waits up to `poll_interval` seconds for
    a rollout. When the runner is stopped, running agents are given `drain_seconds` to finish.

    A heartbeat is sent every `heartbeat_interval` seconds. If the store's response to a heartbeat or to uploaded spans
    lists attempts that the store has already ended, the runner cancels these attempts.
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
        """Attempts that were listed in the latest successful heartbeat."""
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

        When `event` is set or SIGTERM is received, running attempts are given `drain_seconds` to finish. Attempts
        that are still running after that are cancelled and reported as `unresponsive`. If an attempt's agent has not
        started, the rollout is returned to the queue instead. After SIGTERM, `iter` then raises SystemExit.
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
        """Run a rollout for the task `input` immediately, bypassing the queue, and return the finished rollout.

        If `resources` are given, they are added to the store as its latest resources, and the rollout uses them.
        Otherwise, the rollout uses the latest resources that the store already contains.
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
        """Send a heartbeat that lists the running attempts, and cancel those that the store has already ended."""
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

        Call this method before reporting the attempt as `unresponsive`: a heartbeat that arrived after the report would
        reactivate the attempt.
        """
        run.is_abandoned = True
        while self._heartbeats_in_progress:  # noqa: ASYNC110 - heartbeats are sent by another thread
            await asyncio.sleep(POLL_INTERVAL_HEARTBEAT)

    @property
    def worker_id(self) -> str:
        """Name under which the store lists this runner as a worker."""
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
