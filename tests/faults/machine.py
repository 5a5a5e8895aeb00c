"""Random operations on a store and on the reference model: both must agree, for every kind of store.

    python -m tests.faults.machine --runs 20000 --seed 1

A run has its own store and fifty steps chosen by Hypothesis. Each step's result is compared with the reference's, and
so is everything that can be listed.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
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
from .long_run import run_from_command_line
from .reference import ExpectedError, Reference, ReferenceAttempt, ReferenceRollout

REPORTS = ["preparing", "running", "succeeded", "failed", "timeout", "unresponsive"]
RUNS_PER_TURN = 100
"""Number of consecutive runs with one kind of store, so small that an interrupted run has tested all kinds."""
STATUSES = ["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]
WORKERS = [None, "worker-1", "worker-2"]

configs = st.builds(
    RolloutConfig,
    max_attempts=st.integers(1, 3),
    retry_condition=st.lists(st.sampled_from(["failed", "timeout", "unresponsive"]), unique=True),
)


class StoreMachine(RuleBasedStateMachine):
    """Executes each step on a store and on the reference, and compares the results. This one's store is in memory."""

    way: ClassVar[str] = "memory"
    compare_every: ClassVar[int] = 3
    """Steps between comparisons of everything that can be listed; the last comparison is at the end."""
    runs: ClassVar[int] = 0
    steps: ClassVar[int] = 0
    interrupted: ClassVar[bool] = False
    rollouts = Bundle("rollouts")
    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        if self.interrupted:
            raise KeyboardInterrupt
        type(self).runs += 1
        self.step = 0
        self.model = Reference()
        self.ids: dict[int, str] = {}
        """Maps the names of rollouts and attempts in the reference model to their ids in the store."""
        self.loop = asyncio.new_event_loop()
        self.exit_stack = AsyncExitStack()
        folder = Path(self.exit_stack.enter_context(TemporaryDirectory()))
        self.store: LightningStore = self.run(self.exit_stack.enter_async_context(WAYS[self.way](folder)))

    def teardown(self) -> None:
        try:
            self.compare_lists()
            self.compare_spans()
        finally:
            self.run(self.exit_stack.aclose())
            self.loop.close()

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(call)

    def run_concurrently(self, calls: Iterable[Awaitable[Any]]) -> list[Any]:
        async def gather() -> list[Any]:
            return await asyncio.gather(*calls)

        return self.run(gather())

    def run_both(self, expected: Callable[[], Any], call: Coroutine[Any, Any, Any]) -> tuple[Any, Any]:
        """Return the results of reference and store, None for an error; both must fail with the same error."""
        expected_error = error = expected_result = result = None
        try:
            expected_result = expected()
        except ExpectedError as raised:
            expected_error = str(raised)
        try:
            result = self.run(call)
        except Conflict as raised:
            error = type(raised).__name__
        assert error == expected_error
        return expected_result, result

    def compare_rollout(self, expected: ReferenceRollout, rollout: Rollout) -> ReferenceRollout:
        """Compare a rollout and its latest attempt, and remember their ids in the store."""
        assert self.ids.setdefault(expected.name, rollout.rollout_id) == rollout.rollout_id
        if isinstance(rollout, AttemptedRollout):
            attempt = expected.attempts[-1]
            assert self.ids.setdefault(attempt.name, rollout.attempt.attempt_id) == rollout.attempt.attempt_id
            assert (rollout.attempt.sequence_id, rollout.attempt.worker_id) == (len(expected.attempts), attempt.worker)
        assert rollout.status == expected.status
        assert (rollout.resources_id, rollout.resources_version) == (expected.resources or (None, None))
        return expected

    def ids_of(self, attempt: ReferenceAttempt) -> tuple[str, str]:
        return self.ids[attempt.rollout.name], self.ids[attempt.name]

    @rule(target=rollouts, config=configs)
    def enqueue(self, config: RolloutConfig) -> ReferenceRollout:
        rollout = self.run(self.store.enqueue_rollout("task", config=config))
        return self.compare_rollout(self.model.enqueue(config), rollout)

    @rule(target=rollouts, many=st.lists(configs, max_size=3))
    def enqueue_many(self, many: list[RolloutConfig]) -> Any:
        requests = [EnqueueRolloutRequest(input="task", config=config) for config in many]
        rollouts = self.run(self.store.enqueue_many_rollouts(requests))
        return multiple(*(self.compare_rollout(self.model.enqueue(each.config), each) for each in rollouts))

    @rule(target=attempts, config=configs, worker=st.sampled_from(WORKERS))
    def start_rollout(self, config: RolloutConfig, worker: str | None) -> ReferenceAttempt:
        attempt = self.model.start_attempt(self.model.enqueue(config), worker)
        rollout = self.run(self.store.start_rollout("task", config=config, worker_id=worker))
        self.compare_rollout(attempt.rollout, rollout)
        return attempt

    @rule(target=attempts, worker=st.sampled_from(WORKERS))
    def dequeue(self, worker: str | None) -> Any:
        claim = self.run(self.store.dequeue_rollout(worker_id=worker))
        if not self.model.queue:
            assert claim is None
            return multiple()
        attempt = self.model.start_attempt(self.model.queue[0], worker)
        self.compare_rollout(attempt.rollout, claim)
        return attempt

    @rule(target=attempts, limit=st.integers(0, 3), worker=st.sampled_from(WORKERS))
    def dequeue_many(self, limit: int, worker: str | None) -> Any:
        claims = self.run(self.store.dequeue_many_rollouts(limit=limit, worker_id=worker))
        attempts = [self.model.start_attempt(rollout, worker) for rollout in self.model.queue[:limit]]
        for attempt, claim in zip(attempts, claims, strict=True):
            self.compare_rollout(attempt.rollout, claim)
        return multiple(*attempts)

    @rule(target=attempts, rollout=rollouts, worker=st.sampled_from(WORKERS))
    def start_attempt(self, rollout: ReferenceRollout, worker: str | None) -> Any:
        attempt, started = self.run_both(
            lambda: self.model.start_attempt(rollout, worker),
            self.store.start_attempt(self.ids[rollout.name], worker_id=worker),
        )
        if attempt is None:
            return multiple()
        self.compare_rollout(rollout, started)
        return attempt

    @rule(attempt=attempts, status=st.sampled_from(REPORTS))
    def report(self, attempt: ReferenceAttempt, status: Any) -> None:
        _, stored = self.run_both(
            lambda: self.model.report(attempt, status),
            self.store.update_attempt(*self.ids_of(attempt), status=status),
        )
        assert stored is None or stored.status == attempt.status

    @rule(attempt=consumes(attempts))
    def succeed(self, attempt: ReferenceAttempt) -> None:
        self.report(attempt, "succeeded")

    @rule(rollout=rollouts, status=st.sampled_from(STATUSES))
    def set_status(self, rollout: ReferenceRollout, status: Any) -> None:
        _, stored = self.run_both(
            lambda: self.model.set_status(rollout, status),
            self.store.update_rollout(self.ids[rollout.name], status=status),
        )
        if stored is not None:
            self.compare_rollout(rollout, stored)

    @rule(attempt=attempts, worker=st.sampled_from(WORKERS[1:]))
    def heartbeat(self, attempt: ReferenceAttempt, worker: str) -> None:
        rollout_id, attempt_id = self.ids_of(attempt)
        ref = AttemptRef(rollout_id=rollout_id, attempt_id=attempt_id)
        is_current = self.model.heartbeat(attempt)
        updated = self.run(self.store.update_worker(worker, attempts=[ref]))
        assert updated.stale_attempts == ([] if is_current else [ref])

    @rule(attempt=attempts, number=st.integers(1, 6), sequence_id=st.sampled_from([0, 0, 0, 1, 3, 20]))
    def add_span(self, attempt: ReferenceAttempt, number: int, sequence_id: int) -> None:
        rollout_id, attempt_id = self.ids_of(attempt)
        attempted = AttemptedRollout.model_construct(
            rollout_id=rollout_id, attempt=AttemptRef(rollout_id="", attempt_id=attempt_id)
        )
        stored = self.run(self.store.add_span(span(attempted, number, sequence_id=sequence_id)))
        assert (stored and stored.sequence_id) == self.model.add_span(attempt, number, sequence_id)

    @rule(attempt=attempts)
    def reserve_sequence_id(self, attempt: ReferenceAttempt) -> None:
        attempt.last_sequence_id += 1
        reserved = self.run(self.store.get_next_span_sequence_id(*self.ids_of(attempt)))
        assert reserved == attempt.last_sequence_id

    @rule(name=st.sampled_from(["rs-1", "rs-2"]))
    def update_resources(self, name: str) -> None:
        update = self.run(self.store.update_resources(name, {"n": Config(value=1)}))
        assert (update.resources_id, update.version) == self.model.update_resources(name)

    @rule(holder=st.sampled_from(["a", "b"]), seconds=st.sampled_from([600.0, 0.0]))
    def hold_lease(self, holder: str, seconds: float) -> None:
        lease = self.run(self.store.hold_lease("trainer", holder, seconds))
        assert lease["holder"] == self.model.hold_lease(holder, seconds)

    @invariant()
    def lists_agree(self) -> None:
        type(self).steps += 1
        self.step += 1
        if self.step % self.compare_every == 0:
            self.compare_lists()

    @invariant()
    def only_rollouts_in_progress_have_a_live_attempt(self) -> None:
        for rollout in self.model.rollouts:
            assert not any(attempt.is_live for attempt in rollout.attempts[:-1])
            has_live_attempt = bool(rollout.attempts and rollout.attempts[-1].is_live)
            assert has_live_attempt == (rollout.status in ("preparing", "running"))

    def compare_lists(self) -> None:
        store, model = self.store, self.model
        rollouts, statistics, workers = self.run_concurrently(
            [store.query_rollouts(), store.statistics(), store.query_workers(status_in=["busy"])]
        )
        assert [(each.rollout_id, each.status) for each in rollouts] == [
            (self.ids[rollout.name], rollout.status) for rollout in model.rollouts
        ]
        latest = [rollout.attempts[-1] for rollout in model.rollouts if rollout.attempts]
        assert [(each.attempt.attempt_id, each.attempt.status) for each in rollouts if hasattr(each, "attempt")] == [
            (self.ids[attempt.name], attempt.status) for attempt in latest
        ]
        assert {name: statistics[name] for name in model.statistics()} == model.statistics()
        busy = {worker.worker_id for worker in workers}
        assert busy - model.unresponsive_workers == model.busy_workers() - model.unresponsive_workers
        assert busy <= model.busy_workers()

    def compare_spans(self) -> None:
        store, model = self.store, self.model
        pages = self.run_concurrently(store.query_attempts(self.ids[rollout.name]) for rollout in model.rollouts)
        assert [[attempt.status for attempt in page] for page in pages] == [
            [attempt.status for attempt in rollout.attempts] for rollout in model.rollouts
        ]
        pages = self.run_concurrently(store.query_spans(*self.ids_of(attempt)) for attempt in model.attempts)
        for attempt, spans in zip(model.attempts, pages, strict=True):
            assert sorted(
                (each.sequence_id, int(each.span_id, 16), "agentlightning.late" in each.attributes) for each in spans
            ) == sorted((sequence_id, number, late) for number, (sequence_id, late) in attempt.spans.items())
        latest = self.run(store.get_latest_resources())
        assert (latest and (latest.resources_id, latest.version)) == (model.resources or [None])[-1]


class FileMachine(StoreMachine):
    """With a store on disk."""

    way, compare_every = "file", 5


class HttpMachine(StoreMachine):
    """With a store over HTTP."""

    way, compare_every = "http", 5


class PostgresMachine(StoreMachine):
    """With a store in PostgreSQL."""

    way, compare_every = "postgres", 5


class PostgresHttpMachine(StoreMachine):
    """With a store in PostgreSQL over HTTP."""

    way, compare_every = "http-postgres", 5


MACHINES: list[type[StoreMachine]] = [StoreMachine, FileMachine, HttpMachine, PostgresMachine, PostgresHttpMachine]


def run(machine: type[StoreMachine], runs: int, **options: Any) -> str:
    """Execute runs. Raises `AssertionError` with the shortest failing sequence if store and reference differ."""
    machine.runs = machine.steps = 0
    thorough = settings(
        max_examples=runs,
        stateful_step_count=50,
        deadline=None,
        database=None,
        suppress_health_check=list[Any](HealthCheck),
        **options,
    )
    run_state_machine_as_test(machine, settings=thorough)
    return f"{machine.way}: {machine.runs} runs, {machine.steps} steps compared with the reference, 0 differences"


@dataclass
class MachineResult:
    """Counts of the runs and steps, by kind of store."""

    runs: Counter[str] = field(default_factory=Counter[str])
    steps: Counter[str] = field(default_factory=Counter[str])
    seconds: Counter[str] = field(default_factory=Counter[str])
    differences: int = 0

    @property
    def problems(self) -> list[str]:
        return [f"{self.differences} differences"] if self.differences else []

    def __str__(self) -> str:
        steps = self.steps.total()
        return f"{dict(self.runs)} runs, {steps} steps compared with the reference, {self.differences} differences"


def run_all(runs: int, first_seed: int, result: MachineResult) -> None:
    """Execute runs for each kind of store in turn; Ctrl-C stops after the current run."""
    with _interrupt_between_runs():
        for done in range(0, runs, RUNS_PER_TURN):
            for machine in MACHINES:
                started = time.monotonic()
                try:
                    run(seed(f"{first_seed} {done} {machine.way}")(machine), min(RUNS_PER_TURN, runs - done))
                except AssertionError:
                    result.differences += 1
                    raise
                finally:
                    result.runs[machine.way] += machine.runs
                    result.steps[machine.way] += machine.steps
                    result.seconds[machine.way] += round(time.monotonic() - started)


@contextmanager
def _interrupt_between_runs() -> Generator[None]:
    """Delay Ctrl-C until the end of a run: within a run, store and reference differ."""

    def interrupt(*_: object) -> None:
        StoreMachine.interrupted = True

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    result = MachineResult()
    run_from_command_line(
        "machine",
        __doc__,
        result,
        lambda given, _: run_all(given.runs, given.seed, result),
        runs=20_000,
        seed=int(time.time()),
    )


if __name__ == "__main__":
    main()
