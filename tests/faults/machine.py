"""Whatever is done to a store, in whatever order, it agrees with the reference, whichever way it is reached.

    python -m tests.faults.machine --runs 20000 --seed 1

A run is a store of its own and fifty steps that Hypothesis chooses; each step's answer is compared with the
reference's, and so is all that can be listed.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Coroutine, Generator, Iterable
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from hypothesis import HealthCheck, seed, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from agentlightning.errors import Conflict
from agentlightning.store import LightningStore
from agentlightning.types import AttemptedRollout, AttemptRef, Config, EnqueueRolloutRequest, Rollout, RolloutConfig

from ..contract.conftest import WAYS
from ..contract.making import span
from .reference import Job, Reference, Refused, Try
from .results import on_record

REPORTS = ["preparing", "running", "succeeded", "failed", "timeout", "unresponsive"]
AT_ONCE = 100
"""Runs of one way before the next way's turn, so that a run that is broken off has tried them all."""
STATUSES = ["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]
WORKERS = [None, "worker-1", "worker-2"]

configs = st.builds(
    RolloutConfig,
    max_attempts=st.integers(1, 3),
    retry_condition=st.lists(st.sampled_from(["failed", "timeout", "unresponsive"]), unique=True),
)


class Machine(RuleBasedStateMachine):
    """Does the same to a store and to the reference, and compares the answers and all that can be listed."""

    way: ClassVar[str] = "memory"
    every: ClassVar[int] = 1
    """Steps between looks at all there is; one more look is at the end."""
    runs: ClassVar[int] = 0
    steps: ClassVar[int] = 0
    breaks_off: ClassVar[bool] = False
    jobs = Bundle("jobs")
    tries = Bundle("tries")

    def __init__(self) -> None:
        super().__init__()
        if self.breaks_off:
            raise KeyboardInterrupt
        type(self).runs += 1
        self.step = 0
        self.model = Reference()
        self.ids: dict[int, str] = {}
        """Our names of rollouts and attempts → the store's."""
        self.loop = asyncio.new_event_loop()
        self.open = AsyncExitStack()
        self.path = Path(self.open.enter_context(TemporaryDirectory()))
        self.store: LightningStore = self.run(self.open.enter_async_context(WAYS[self.way](self.path)))

    def teardown(self) -> None:
        try:
            self.all_that_is_listed_agrees()
            self.spans_are_in_place()
        finally:
            self.run(self.open.aclose())
            self.loop.close()

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(call)

    def all_of(self, calls: Iterable[Awaitable[Any]]) -> list[Any]:
        """What several calls made at the same time give."""

        async def together() -> list[Any]:
            return await asyncio.gather(*calls)

        return self.run(together())

    def agree(self, expected: Any, call: Coroutine[Any, Any, Any]) -> Any:
        """The store's answer, which is an error exactly where the reference refuses."""
        try:
            refusal, result = None, expected()
        except Refused as refused:
            refusal, result = str(refused), None
        try:
            answer = self.run(call)
        except Conflict as error:
            refused_by_store, answer = type(error).__name__, None
        else:
            refused_by_store = None
        assert refused_by_store == refusal
        return result, answer

    def know(self, job: Job, rollout: Rollout) -> Job:
        """Remember under which ids the store has this rollout and its latest attempt."""
        assert self.ids.setdefault(job.name, rollout.rollout_id) == rollout.rollout_id
        if isinstance(rollout, AttemptedRollout):
            it = job.tries[-1]
            assert self.ids.setdefault(it.name, rollout.attempt.attempt_id) == rollout.attempt.attempt_id
            assert (rollout.attempt.sequence_id, rollout.attempt.worker_id) == (len(job.tries), it.worker)
        assert rollout.status == job.status
        resources = (rollout.resources_id, rollout.resources_version)
        assert resources == (job.resources or (None, None))
        return job

    # What comes in

    @rule(target=jobs, config=configs)
    def enqueue(self, config: RolloutConfig) -> Job:
        return self.know(self.model.enqueue(config), self.run(self.store.enqueue_rollout("task", config=config)))

    @rule(target=jobs, many=st.lists(configs, max_size=3))
    def enqueue_many(self, many: list[RolloutConfig]) -> Any:
        requests = [EnqueueRolloutRequest(input="task", config=config) for config in many]
        rollouts = self.run(self.store.enqueue_many_rollouts(requests))
        return multiple(*(self.know(self.model.enqueue(each.config), each) for each in rollouts))

    @rule(target=tries, config=configs, worker=st.sampled_from(WORKERS))
    def start_rollout(self, config: RolloutConfig, worker: str | None) -> Any:
        job = self.model.enqueue(config)
        it = self.model.begin(job, worker)
        self.know(job, self.run(self.store.start_rollout("task", config=config, worker_id=worker)))
        return job, it

    # What is done

    @rule(target=tries, worker=st.sampled_from(WORKERS))
    def dequeue(self, worker: str | None) -> Any:
        claim = self.run(self.store.dequeue_rollout(worker_id=worker))
        if not self.model.queue:
            assert claim is None
            return multiple()
        job = self.model.queue[0]
        it = self.model.begin(job, worker)
        self.know(job, claim)
        return job, it

    @rule(target=tries, limit=st.integers(0, 3), worker=st.sampled_from(WORKERS))
    def dequeue_many(self, limit: int, worker: str | None) -> Any:
        claims = self.run(self.store.dequeue_many_rollouts(limit=limit, worker_id=worker))
        begun = [(job, self.model.begin(job, worker)) for job in self.model.queue[:limit]]
        for (job, _), claim in zip(begun, claims, strict=True):
            self.know(job, claim)
        return multiple(*begun)

    @rule(target=tries, job=jobs, worker=st.sampled_from(WORKERS))
    def start_attempt(self, job: Job, worker: str | None) -> Any:
        it, rollout = self.agree(
            lambda: self.model.begin(job, worker), self.store.start_attempt(self.ids[job.name], worker_id=worker)
        )
        if it is None:
            return multiple()
        self.know(job, rollout)
        return job, it

    @rule(at=tries, status=st.sampled_from(REPORTS))
    def report(self, at: tuple[Job, Try], status: Any) -> None:
        job, it = at
        _, attempt = self.agree(
            lambda: self.model.report(job, it, status),
            self.store.update_attempt(self.ids[job.name], self.ids[it.name], status=status),
        )
        assert attempt is None or attempt.status == it.status

    @rule(at=consumes(tries))
    def succeed(self, at: tuple[Job, Try]) -> None:
        self.report(at, "succeeded")

    @rule(job=jobs, to=st.sampled_from(STATUSES))
    def set_status(self, job: Job, to: Any) -> None:
        _, rollout = self.agree(
            lambda: self.model.set_status(job, to), self.store.update_rollout(self.ids[job.name], status=to)
        )
        if rollout is not None:
            self.know(job, rollout)

    @rule(at=tries, worker=st.sampled_from(WORKERS[1:]))
    def heartbeat(self, at: tuple[Job, Try], worker: str) -> None:
        job, it = at
        ref = AttemptRef(rollout_id=self.ids[job.name], attempt_id=self.ids[it.name])
        heard = self.model.sign_of_life(job, it)
        reply = self.run(self.store.update_worker(worker, attempts=[ref]))
        assert reply.stale_attempts == ([] if heard else [ref])

    @rule(at=tries, number=st.integers(1, 6), place=st.sampled_from([0, 0, 0, 1, 3, 20]))
    def add_span(self, at: tuple[Job, Try], number: int, place: int) -> None:
        job, it = at
        attempted = AttemptedRollout.model_construct(
            rollout_id=self.ids[job.name], attempt=AttemptRef(rollout_id="", attempt_id=self.ids[it.name])
        )
        stored = self.run(self.store.add_span(span(attempted, number, sequence_id=place)))
        assert (stored and stored.sequence_id) == self.model.add_span(job, it, number, place)

    @rule(at=tries)
    def reserve(self, at: tuple[Job, Try]) -> None:
        job, it = at
        it.last += 1
        assert self.run(self.store.get_next_span_sequence_id(self.ids[job.name], self.ids[it.name])) == it.last

    @rule(name=st.sampled_from(["rs-1", "rs-2"]))
    def update_resources(self, name: str) -> None:
        update = self.run(self.store.update_resources(name, {"n": Config(value=1)}))
        assert (update.resources_id, update.version) == self.model.update_resources(name)

    @rule(holder=st.sampled_from(["a", "b"]), seconds=st.sampled_from([600.0, 0.0]))
    def hold_lease(self, holder: str, seconds: float) -> None:
        lease = self.run(self.store.hold_lease("trainer", holder, seconds))
        assert lease["holder"] == self.model.hold_lease(holder, seconds)

    # What must hold

    @invariant()
    def everything_agrees(self) -> None:
        type(self).steps += 1
        self.step += 1
        if self.step % self.every == 0:
            self.all_that_is_listed_agrees()

    def all_that_is_listed_agrees(self) -> None:
        store = self.store
        rollouts, found, busy = self.all_of(
            [store.query_rollouts(), store.statistics(), store.query_workers(status_in=["busy"])]
        )

        assert [(each.rollout_id, each.status) for each in rollouts] == [
            (self.ids[job.name], job.status) for job in self.model.jobs
        ]
        assert [(each.attempt.attempt_id, each.attempt.status) for each in rollouts if hasattr(each, "attempt")] == [
            (self.ids[job.tries[-1].name], job.tries[-1].status) for job in self.model.jobs if job.tries
        ]
        assert {name: found[name] for name in self.model.statistics()} == self.model.statistics()
        assert {worker.worker_id for worker in busy} - self.model.lost == self.model.busy() - self.model.lost
        assert {worker.worker_id for worker in busy} <= self.model.busy()

    @invariant()
    def nobody_works_on_what_is_not_under_way(self) -> None:
        for job in self.model.jobs:
            assert not any(it.live for it in job.tries[:-1])
            assert bool(job.tries and job.tries[-1].live) == (job.status in ("preparing", "running"))

    def spans_are_in_place(self) -> None:
        jobs, store, ids = self.model.jobs, self.store, self.ids
        attempts = self.all_of(store.query_attempts(ids[job.name]) for job in jobs)
        assert [[attempt.status for attempt in each] for each in attempts] == [
            [it.status for it in job.tries] for job in jobs
        ]
        tries = [(job, it) for job in jobs for it in job.tries]
        found = self.all_of(store.query_spans(ids[job.name], ids[it.name]) for job, it in tries)
        for (_, it), spans in zip(tries, found, strict=True):
            assert sorted(
                (each.sequence_id, int(each.span_id, 16), "agentlightning.late" in each.attributes) for each in spans
            ) == sorted((place, number, late) for number, (place, late) in it.spans.items())
        latest = self.run(self.store.get_latest_resources())
        assert (latest and (latest.resources_id, latest.version)) == (self.model.resources or [None])[-1]


class InFile(Machine):
    """The same, on disk."""

    way, every = "file", 5


class OverHttp(Machine):
    """The same, at the other end of a connection."""

    way, every = "http", 5


class InPostgres(Machine):
    """The same, in PostgreSQL."""

    way, every = "postgres", 5


class InPostgresOverHttp(Machine):
    """The same, in PostgreSQL at the other end of a connection."""

    way, every = "http-postgres", 5


MACHINES: list[type[Machine]] = [Machine, InFile, OverHttp, InPostgres, InPostgresOverHttp]


def run(machine: type[Machine], runs: int, **given: Any) -> str:
    """So many runs. Raises `AssertionError`, with the shortest way there, where store and reference differ."""
    machine.runs = machine.steps = 0
    thorough = settings(
        max_examples=runs,
        stateful_step_count=50,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **given,
    )
    run_state_machine_as_test(machine, settings=thorough)
    return f"{machine.way}: {machine.runs} runs, {machine.steps} steps compared with the reference, 0 differences"


@dataclass
class Agreed:
    """How often store and reference did the same, by the way the store was reached."""

    runs: Counter[str] = field(default_factory=Counter[str])
    steps: Counter[str] = field(default_factory=Counter[str])
    seconds: Counter[str] = field(default_factory=Counter[str])
    differences: int = 0

    def __str__(self) -> str:
        steps = self.steps.total()
        return f"{dict(self.runs)} runs, {steps} steps compared with the reference, {self.differences} differences"


def run_all(runs: int, first_seed: int, result: Agreed) -> None:
    """So many runs of each way, in turns; Ctrl-C ends it after the run that it comes in."""
    with _between_runs():
        for done in range(0, runs, AT_ONCE):
            for machine in MACHINES:
                began = time.monotonic()
                try:
                    run(seed(f"{first_seed} {done} {machine.way}")(machine), min(AT_ONCE, runs - done))
                except AssertionError:
                    result.differences += 1
                    raise
                finally:
                    result.runs[machine.way] += machine.runs
                    result.steps[machine.way] += machine.steps
                    result.seconds[machine.way] += round(time.monotonic() - began)


@contextmanager
def _between_runs() -> Generator[None]:
    """Ctrl-C waits for the end of a run: in the middle of one, store and reference differ."""

    def break_off(*_: object) -> None:
        Machine.breaks_off = True

    before = signal.signal(signal.SIGINT, break_off)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000, help="for each way to reach a store")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    result = Agreed()
    with on_record("machine", result, seed=given.seed):
        run_all(given.runs, given.seed, result)


if __name__ == "__main__":
    main()
