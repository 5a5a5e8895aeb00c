"""LitAgentRunner: the runner of agents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from ..litagent import LitAgent, as_agent
from ..store import LightningStore
from ..tracer import Tracer
from ..types import AttemptedRollout, AttemptRef, Hook, NamedResources, Rollout, RolloutMode
from . import system_info
from .attempt import AttemptRun, Bench, Halt
from .base import Runner, StopEvent, T
from .claim_loop import GIVE_BACK_SECONDS, ClaimLoop, Limits
from .heartbeat import Heartbeat
from .patience import Patience
from .shutdown import listening
from .worker_name import name_worker

logger = logging.getLogger(__name__)

LEAVE_LOOK_SECONDS: Final = 0.01


class LitAgentRunner(Runner[T]):
    """Runs agents: up to `max_concurrency` rollouts at once, async agents as tasks and sync ones in threads.

    `poll_interval` is how long one claim waits at the store. When it is to stop, running agents get `drain_seconds` to
    finish. A heartbeat every `heartbeat_interval` seconds tells the store that it lives. The replies, and those to an
    attempt's spans, say which attempts to break off.
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
            raise ValueError(f"max_concurrency is at least 1, not {max_concurrency}")
        self._tracer = tracer
        self._limits = Limits(max_rollouts, max_concurrency, poll_interval, drain_seconds)
        self._heartbeat_interval = heartbeat_interval
        self._agent: LitAgent[Any] | None = None
        self._hooks: Sequence[Hook] = ()
        self._bench_now: Bench | None = None
        self._life = ExitStack()
        self._held: dict[AttemptRef, AttemptRun] = {}
        self._told: set[AttemptRef] = set()
        self._beats_under_way = 0
        self._finished = 0

    # Life

    def init(self, agent: LitAgent[T] | Callable[..., Any], *, hooks: Sequence[Hook] | None = None) -> None:
        self._agent = as_agent(agent)
        self._hooks = tuple(hooks or ())

    def init_worker(self, worker_id: int | str | None, store: LightningStore) -> None:
        if self._agent is None:
            raise RuntimeError("the runner has no agent yet: call init(agent) first, or use run_context")
        with ExitStack() as life:
            worker = name_worker(worker_id)
            life.callback(worker.release)
            self._tracer.init_worker(worker.label, store)
            life.callback(self._tracer.teardown_worker)
            life.enter_context(self._tracer.telling(self._break_off))
            self._bench_now = Bench(
                self, self._agent, self._tracer, store, self._hooks, worker, Patience(worker.about())
            )
            heartbeat = Heartbeat(
                self.beat, self._heartbeat_interval, news=self._has_news, name=f"heartbeat-{worker.label}"
            )
            heartbeat.start()
            life.callback(heartbeat.stop)
            self._life = life.pop_all()

    def teardown_worker(self) -> None:
        self._life.close()
        self._bench_now = None

    def teardown(self) -> None:
        self._agent, self._hooks = None, ()

    # Rollouts

    async def iter(self, event: StopEvent | None = None) -> None:
        """Claim rollouts and carry them out, until `event` is set, SIGTERM comes, or `max_rollouts` are done.

        After SIGTERM it raises SystemExit once everything is finished or given back.
        """
        bench, most = self._bench, self._limits.max_rollouts
        with listening(event) as stop:
            who = bench.worker.about()
            logger.info("%s Started async rollouts (max: %s).", who, "unlimited" if most is None else most)
            loop = ClaimLoop(bench, self._limits, stop, self._held, lambda rollout: self._begin(rollout)[1])
            await loop.run()
        logger.info("%s Finished async rollouts: %d.", who, loop.claimed)
        if stop.terminated:
            raise SystemExit(0)

    async def step(self, input: T, resources: NamedResources | None = None, mode: RolloutMode | None = None) -> Rollout:
        """Carry out one rollout of `input`, past the queue, and return it finished.

        `resources` are stored first, and so become the latest; without them it gets those that are.
        """
        bench = self._bench
        store = bench.store
        resources_id = None if resources is None else (await store.add_resources(resources)).resources_id
        rollout = await store.start_rollout(input, mode, resources_id, worker_id=bench.worker.worker_id)
        run, task = self._begin(rollout)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            run.halt(Halt("its step was cancelled"))
            await asyncio.wait({task}, timeout=GIVE_BACK_SECONDS)
            raise
        return await store.get_rollout_by_id(rollout.rollout_id) or rollout

    async def beat(self) -> None:
        """One heartbeat, for all attempts it holds; breaks off those that the store has given up."""
        bench = self._bench
        stats = {**system_info.facts(), "running": len(self._held), "finished": self._finished}
        self._beats_under_way += 1
        try:
            held = self._not_left()
            worker = await bench.store.update_worker(bench.worker.worker_id, stats, attempts=held)
        finally:
            self._beats_under_way -= 1
        self._told = set(held)
        for ref in worker.stale_attempts:
            self._break_off(ref)

    async def leave(self, run: AttemptRun) -> None:
        """Name the attempt in no heartbeat any more: one that came after its end would bring it back to life."""
        run.is_left = True
        while self._beats_under_way:  # noqa: ASYNC110 - beats are sent by another thread
            await asyncio.sleep(LEAVE_LOOK_SECONDS)

    @property
    def worker_id(self) -> str:
        """What the store knows this runner by."""
        return self._bench.worker.worker_id

    @property
    def _bench(self) -> Bench:
        if self._bench_now is None:
            raise RuntimeError("the runner is not ready: use it inside `with runner.run_context(agent=…, store=…)`")
        return self._bench_now

    def _has_news(self) -> bool:
        """Whether it holds an attempt that the store has not been told of."""
        return not self._told.issuperset(self._not_left())

    def _not_left(self) -> list[AttemptRef]:
        return [ref for ref, run in list(self._held.items()) if not run.is_left]

    def _break_off(self, given_up: AttemptRef) -> None:
        if run := self._held.get(given_up):
            run.halt(Halt("the store has given up this attempt (cancelled, timed out or superseded)", reported=True))

    def _begin(self, rollout: AttemptedRollout) -> tuple[AttemptRun, asyncio.Task[None]]:
        run = AttemptRun(self._bench, rollout)
        self._held[run.ref] = run
        return run, asyncio.create_task(self._carry_out(run), name=rollout.rollout_id)

    async def _carry_out(self, run: AttemptRun) -> None:
        try:
            await run.run()
        except Exception:
            logger.exception("%s Could not be seen through", self._bench.worker.about(run.ref.rollout_id))
        finally:
            self._finished += 1
            del self._held[run.ref]
