"""Repeated `kill -9` of a store under load: every acknowledged change exists, and none took effect twice.

    python -m tests.faults.kill_store --cycles 1000

Clients enqueue, claim, trace and finish rollouts through `LightningStoreClient`. At a moment chosen by the seed, the
store's process is killed with calls in progress. Its file is opened and compared with what was acknowledged. Then the
store is restarted on the same file and port, and the clients continue. At the end, every call must have happened
exactly once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentlightning.store import LightningStore, LightningStoreClient, SqliteLightningStore
from agentlightning.types import Config, RolloutConfig, Span

from .long_run import run_from_command_line
from .store_process import StoreProcess

LONG_LEASE = RolloutConfig(unresponsive_seconds=3600)
PRODUCERS, RUNNERS, SPANS = 3, 5, 4


@dataclass
class ExpectedState:
    """Changes that the clients have requested, and those that the store has acknowledged."""

    requested: set[str] = field(default_factory=set)
    """Tasks."""
    enqueued: dict[str, str] = field(default_factory=dict)
    """Task to rollout id."""
    claimed: dict[str, str] = field(default_factory=dict)
    """Rollout id to attempt id."""
    requested_spans: Counter[str] = field(default_factory=Counter)
    spans: Counter[str] = field(default_factory=Counter)
    finished: set[str] = field(default_factory=set)
    requested_versions: int = 0
    versions: int = 0
    acknowledged: Counter[str] = field(default_factory=Counter)
    changed: set[str] = field(default_factory=set)
    """Rollouts changed since the last comparison."""
    on_acknowledged: Callable[[], None] = lambda: None

    def acknowledge(self, operation: str, rollout_id: str | None = None) -> None:
        """Record an acknowledgement of the store."""
        self.acknowledged[operation] += 1
        if rollout_id:
            self.changed.add(rollout_id)
        self.on_acknowledged()

    async def differences(self, store: LightningStore, rollouts: Iterable[str]) -> list[str]:
        """Return acknowledged changes that are missing, and stored ones that were never requested."""
        rollouts = list(rollouts)
        stored = {each.rollout_id: each for each in await store.query_rollouts(rollout_id_in=rollouts)}
        wrong = [f"lost: rollout {rollout_id}" for rollout_id in rollouts if rollout_id not in stored]
        total = (await store.query_rollouts(limit=0)).total
        wrong += _compare_counts("rollouts", len(self.enqueued), total, len(self.requested))
        total = (await store.query_resources(limit=0)).total
        wrong += _compare_counts("versions", self.versions, total, self.requested_versions)
        for rollout_id in rollouts:
            wrong += await self._differences_of(store, rollout_id, stored.get(rollout_id))
        return wrong

    async def duplicates(self, store: LightningStore) -> list[str]:
        """Return rollouts stored more than once, and those never requested."""
        inputs = Counter(rollout.input for rollout in await store.query_rollouts())
        wrong = [f"phantom: {count} rollouts of {task}" for task, count in inputs.items() if count > 1]
        return wrong + [f"phantom: {task} was never requested" for task in set(inputs) - self.requested]

    async def _differences_of(self, store: LightningStore, rollout_id: str, rollout: Any) -> list[str]:
        wrong: list[str] = []
        attempts = [attempt.attempt_id for attempt in await store.query_attempts(rollout_id)]
        if rollout_id in self.claimed and attempts != [self.claimed[rollout_id]]:
            wrong.append(f"claim of {rollout_id}: {self.claimed[rollout_id]} acknowledged, {attempts} stored")
        if rollout_id in self.finished and (rollout is None or rollout.status != "succeeded"):
            wrong.append(f"lost: the end of {rollout_id}")
        spans = [span.span_id for span in await store.query_spans(rollout_id)]
        in_range = self.spans[rollout_id] <= len(spans) <= self.requested_spans[rollout_id]
        if len(spans) != len(set(spans)) or not in_range:
            wrong.append(f"spans of {rollout_id}: {self.spans[rollout_id]} acknowledged, {spans} stored")
        return wrong

    def is_complete(self) -> bool:
        """Return True if every call was acknowledged and so must have taken effect exactly once."""
        return (
            self.requested == set(self.enqueued)
            and set(self.enqueued.values()) == set(self.claimed) == self.finished
            and self.spans == self.requested_spans
            and self.versions == self.requested_versions
        )


def _compare_counts(name: str, acknowledged: int, stored: int, requested: int) -> list[str]:
    if acknowledged <= stored <= requested:
        return []
    kind = "lost" if stored < acknowledged else "phantom"
    return [f"{kind}: {stored} {name}, of {acknowledged} acknowledged and {requested} requested"]


class StoreLoad:
    """Clients that act as algorithm and runners, until they are stopped and their rollouts are finished."""

    def __init__(self, endpoint: str, expected: ExpectedState) -> None:
        self._endpoint = endpoint
        self._expected = expected
        self._stop = asyncio.Event()
        self._unfinished = 0

    async def run(self) -> None:
        async with LightningStoreClient(self._endpoint) as client, asyncio.TaskGroup() as group:
            producers = [group.create_task(self._produce(client, n)) for n in range(PRODUCERS)]
            for n in range(RUNNERS):
                group.create_task(self._run_rollouts(client, n, producers))
            group.create_task(self._update_resources(client))

    def stop(self) -> None:
        """Enqueue no more tasks; the enqueued ones are finished."""
        self._stop.set()

    async def _produce(self, client: LightningStore, producer: int) -> None:
        number = 0
        while not self._stop.is_set():
            task = f"task {producer}/{number}"
            self._expected.requested.add(task)
            rollout = await client.enqueue_rollout(task, config=LONG_LEASE)
            self._expected.enqueued[task] = rollout.rollout_id
            self._expected.acknowledge("enqueue", rollout.rollout_id)
            number += 1
            self._unfinished += 1
            while self._unfinished > 50 and not self._stop.is_set():
                await client.wait_for_rollouts([rollout.rollout_id], timeout=0.1)

    async def _run_rollouts(self, client: LightningStore, runner: int, producers: list[asyncio.Task[None]]) -> None:
        while True:
            produced = all(producer.done() for producer in producers)
            attempted = await client.dequeue_rollout(worker_id=f"runner {runner}", wait=0.2)
            if attempted is None and produced:
                return
            if attempted is not None:
                await self._run_rollout(client, attempted.rollout_id, attempted.attempt.attempt_id)
                self._unfinished -= 1

    async def _run_rollout(self, client: LightningStore, rollout_id: str, attempt_id: str) -> None:
        expected = self._expected
        expected.claimed[rollout_id] = attempt_id
        expected.acknowledge("claim", rollout_id)
        text = {"text": "x" * 500}
        spans = [
            Span.from_attributes(rollout_id=rollout_id, attempt_id=attempt_id, attributes=text) for _ in range(SPANS)
        ]
        expected.requested_spans[rollout_id] += SPANS
        expected.spans[rollout_id] += len(await client.add_many_spans(spans))
        expected.acknowledge("spans", rollout_id)
        await client.update_attempt(rollout_id, attempt_id, status="succeeded")
        expected.finished.add(rollout_id)
        expected.acknowledge("finish", rollout_id)

    async def _update_resources(self, client: LightningStore) -> None:
        while not self._stop.is_set():
            self._expected.requested_versions += 1
            await client.update_resources("rs-tuned", {"n": Config(value=self._expected.requested_versions)})
            self._expected.versions += 1
            self._expected.acknowledge("resources")
            await client.wait_for_rollouts(list(self._expected.enqueued.values())[-1:], timeout=0.05)


@dataclass
class KillStoreResult:
    """Counts of the kills, and lost or repeated changes."""

    cycles: int = 0
    acknowledged: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    slowest_reopening_in_ms: float = 0.0
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        return self.wrong

    def __str__(self) -> str:
        lost = sum(not each.startswith("phantom") for each in self.wrong)
        return (
            f"{self.cycles} kills, {self.acknowledged.total()} acknowledged operations {dict(self.acknowledged)}: "
            f"{lost} lost, {len(self.wrong) - lost} phantom; slowest reopening {self.slowest_reopening_in_ms:.0f} ms; "
            f"{self.seconds:.0f} s"
        )


async def kill_store_repeatedly(
    path: Path, cycles: int, seed: int, *, acknowledge_early: bool = False, result: KillStoreResult | None = None
) -> KillStoreResult:
    """Kill a store under load repeatedly, and compare its contents after each kill and after the load has finished.

    Stops at the first kill that loses something.
    """
    started, rng, expected = time.monotonic(), random.Random(seed), ExpectedState()
    result = result or KillStoreResult()
    result.acknowledged, wrong = expected.acknowledged, result.wrong
    async with StoreProcess(path, acknowledge_early=acknowledge_early) as process:
        load = StoreLoad(process.endpoint, expected)
        running = asyncio.create_task(load.run())
        while result.cycles < cycles:
            result.cycles += 1
            wrong += await _kill_at(expected, rng.randint(5, 100), process, running)
            await _reopen(path, expected, result)
            result.seconds = time.monotonic() - started
            if wrong:  # the clients cannot continue without what was acknowledged to them
                running.cancel()
                await asyncio.wait([running])
                return result
            await process.start()
        load.stop()
        await running
        process.kill()
        await process.wait_until_killed()
    if not expected.is_complete():
        wrong.append("lost: the load did not finish")
    async with SqliteLightningStore(path) as store:
        wrong += await expected.differences(store, expected.enqueued.values())
        wrong += await expected.duplicates(store)
    return result


async def _reopen(path: Path, expected: ExpectedState, result: KillStoreResult) -> None:
    """Open the file and compare the rollouts changed since the last comparison."""
    started = time.monotonic()
    async with SqliteLightningStore(path) as store:
        await store.statistics()
        milliseconds = (time.monotonic() - started) * 1000
        result.slowest_reopening_in_ms = max(result.slowest_reopening_in_ms, milliseconds)
        changed, expected.changed = expected.changed, set()
        result.wrong += await expected.differences(store, changed)


async def _kill_at(
    expected: ExpectedState, acknowledgements: int, process: StoreProcess, running: asyncio.Task[None]
) -> list[str]:
    """Kill the store after the given number of further acknowledgements; return the errors that clients had before."""
    last = expected.acknowledged.total() + acknowledgements
    killed = asyncio.Event()

    def kill() -> None:
        if expected.acknowledged.total() >= last and not killed.is_set():
            process.kill()
            killed.set()

    expected.on_acknowledged = kill
    waiting = asyncio.create_task(killed.wait())
    await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        await process.wait_until_killed()
        return []
    waiting.cancel()
    if not killed.is_set():
        process.kill()
    await process.wait_until_killed()
    return [f"lost: {error}" for error in _errors_in(running.exception())]


def _errors_in(error: BaseException | None) -> Sequence[BaseException | None]:
    return error.exceptions if isinstance(error, BaseExceptionGroup) else [error]


def main() -> None:
    result = KillStoreResult()
    run_from_command_line(
        "kill_store",
        __doc__,
        result,
        lambda given, folder: asyncio.run(
            kill_store_repeatedly(folder / "agl.db", given.cycles, given.seed, result=result)
        ),
        cycles=50,
        seed=0,
    )


if __name__ == "__main__":
    main()
