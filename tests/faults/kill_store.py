"""`kill -9` of a store under load, again and again: what was acknowledged is there, and nothing happened twice.

    python -m tests.faults.kill_store --cycles 1000

Clients enqueue, claim, trace and finish rollouts through `LightningStoreClient`. At a moment that the seed decides the
store's process is killed with calls in flight; its file is opened and compared with what had been acknowledged; then
the store is started again on the same file and port, and the clients go on. At the end every call that was ever made
must have happened exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentlightning.store import LightningStore, LightningStoreClient, SqliteLightningStore
from agentlightning.types import Config, RolloutConfig, Span

from .results import on_record
from .store_process import StoreProcess

PATIENT = RolloutConfig(unresponsive_seconds=3600)
PRODUCERS, RUNNERS, SPANS = 3, 5, 4


@dataclass
class Journal:
    """What was asked for, and what the store has acknowledged."""

    asked: set[str] = field(default_factory=set)
    enqueued: dict[str, str] = field(default_factory=dict)
    """Task → rollout."""
    claimed: dict[str, str] = field(default_factory=dict)
    """Rollout → attempt."""
    asked_spans: Counter[str] = field(default_factory=Counter)
    spans: Counter[str] = field(default_factory=Counter)
    finished: set[str] = field(default_factory=set)
    asked_versions: int = 0
    versions: int = 0
    acknowledged: Counter[str] = field(default_factory=Counter)
    fresh: set[str] = field(default_factory=set)
    """Rollouts with news since the last look."""
    on_news: Callable[[], None] = lambda: None

    def note(self, what: str, rollout_id: str | None = None) -> None:
        """The store has just acknowledged something."""
        self.acknowledged[what] += 1
        if rollout_id:
            self.fresh.add(rollout_id)
        self.on_news()

    async def differences(self, store: LightningStore, rollouts: Iterable[str]) -> list[str]:
        """What was acknowledged and is not there, and what is there and was never asked for."""
        rollouts = list(rollouts)
        there = {each.rollout_id: each for each in await store.query_rollouts(rollout_id_in=rollouts)}
        wrong = [f"lost: rollout {rollout_id}" for rollout_id in rollouts if rollout_id not in there]
        wrong += self._miscounted(
            "rollouts", len(self.enqueued), (await store.query_rollouts(limit=0)).total, len(self.asked)
        )
        wrong += self._miscounted(
            "versions", self.versions, (await store.query_resources(limit=0)).total, self.asked_versions
        )
        for rollout_id in rollouts:
            wrong += await self._differences_of(store, rollout_id, there.get(rollout_id))
        return wrong

    async def duplicates(self, store: LightningStore) -> list[str]:
        """What is there more often than it was asked for, or was never asked for."""
        inputs = Counter(rollout.input for rollout in await store.query_rollouts())
        wrong = [f"phantom: {count} rollouts of {task}" for task, count in inputs.items() if count > 1]
        return wrong + [f"phantom: {task} was never asked for" for task in set(inputs) - self.asked]

    def _miscounted(self, what: str, acknowledged: int, there: int, asked: int) -> list[str]:
        if acknowledged <= there <= asked:
            return []
        kind = "lost" if there < acknowledged else "phantom"
        return [f"{kind}: {there} {what}, of {acknowledged} acknowledged and {asked} asked for"]

    async def _differences_of(self, store: LightningStore, rollout_id: str, rollout: Any) -> list[str]:
        wrong: list[str] = []
        attempts = [attempt.attempt_id for attempt in await store.query_attempts(rollout_id)]
        if rollout_id in self.claimed and attempts != [self.claimed[rollout_id]]:
            wrong.append(f"claim of {rollout_id}: {self.claimed[rollout_id]} acknowledged, {attempts} there")
        if rollout_id in self.finished and (rollout is None or rollout.status != "succeeded"):
            wrong.append(f"lost: the end of {rollout_id}")
        spans = [span.span_id for span in await store.query_spans(rollout_id)]
        if len(spans) != len(set(spans)) or not self.spans[rollout_id] <= len(spans) <= self.asked_spans[rollout_id]:
            wrong.append(f"spans of {rollout_id}: {self.spans[rollout_id]} acknowledged, {spans} there")
        return wrong

    def all_done(self) -> bool:
        """Every call ever made has been acknowledged, so that it must have happened exactly once."""
        return (
            self.asked == set(self.enqueued)
            and set(self.enqueued.values()) == set(self.claimed) == self.finished
            and self.spans == self.asked_spans
            and self.versions == self.asked_versions
        )


class Load:
    """Clients that do what algorithm and runners do, until they are told to stop and their work is done."""

    def __init__(self, endpoint: str, journal: Journal) -> None:
        self._endpoint = endpoint
        self._journal = journal
        self._stop = asyncio.Event()
        self._open = 0

    async def run(self) -> None:
        async with LightningStoreClient(self._endpoint) as client, asyncio.TaskGroup() as group:
            producers = [group.create_task(self._produce(client, n)) for n in range(PRODUCERS)]
            for n in range(RUNNERS):
                group.create_task(self._work(client, n, producers))
            group.create_task(self._tune(client))

    def stop(self) -> None:
        """No new tasks; what is there is finished."""
        self._stop.set()

    async def _produce(self, client: LightningStore, producer: int) -> None:
        number = 0
        while not self._stop.is_set():
            task = f"task {producer}/{number}"
            self._journal.asked.add(task)
            rollout = await client.enqueue_rollout(task, config=PATIENT)
            self._journal.enqueued[task] = rollout.rollout_id
            self._journal.note("enqueue", rollout.rollout_id)
            number += 1
            self._open += 1
            while self._open > 50 and not self._stop.is_set():
                await client.wait_for_rollouts([rollout.rollout_id], timeout=0.1)

    async def _work(self, client: LightningStore, runner: int, producers: list[asyncio.Task[None]]) -> None:
        while True:
            over = all(producer.done() for producer in producers)
            attempted = await client.dequeue_rollout(worker_id=f"runner {runner}", wait=0.2)
            if attempted is None and over:
                return
            if attempted is not None:
                await self._carry_out(client, attempted.rollout_id, attempted.attempt.attempt_id)
                self._open -= 1

    async def _carry_out(self, client: LightningStore, rollout_id: str, attempt_id: str) -> None:
        journal = self._journal
        journal.claimed[rollout_id] = attempt_id
        journal.note("claim", rollout_id)
        spans = [Span.from_attributes(rollout_id=rollout_id, attempt_id=attempt_id, attributes={"text": "x" * 500})
                 for _ in range(SPANS)]  # fmt: skip
        journal.asked_spans[rollout_id] += SPANS
        journal.spans[rollout_id] += len(await client.add_many_spans(spans))
        journal.note("spans", rollout_id)
        await client.update_attempt(rollout_id, attempt_id, status="succeeded")
        journal.finished.add(rollout_id)
        journal.note("finish", rollout_id)

    async def _tune(self, client: LightningStore) -> None:
        while not self._stop.is_set():
            self._journal.asked_versions += 1
            await client.update_resources("rs-tuned", {"n": Config(value=self._journal.asked_versions)})
            self._journal.versions += 1
            self._journal.note("resources")
            await client.wait_for_rollouts(list(self._journal.enqueued.values())[-1:], timeout=0.05)


@dataclass
class Result:
    """How it went."""

    cycles: int = 0
    acknowledged: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    slowest_reopening_in_ms: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        lost = sum(not each.startswith("phantom") for each in self.wrong)
        return (
            f"{self.cycles} kills, {self.acknowledged.total()} acknowledged operations {dict(self.acknowledged)}: "
            f"{lost} lost, {len(self.wrong) - lost} phantom; slowest reopening {self.slowest_reopening_in_ms:.0f} ms; "
            f"{self.seconds:.0f} s"
        )


async def kill_again_and_again(
    path: Path, cycles: int, seed: int, *, hasty: bool = False, result: Result | None = None
) -> Result:
    """Load, kill, compare, start again; at the end let the load finish and compare all of it.

    The first kill that costs something is the last. A `hasty` store answers before it commits.
    """
    began, chance, journal, result = time.monotonic(), random.Random(seed), Journal(), result or Result()
    result.acknowledged, wrong = journal.acknowledged, result.wrong
    async with StoreProcess(path, hasty=hasty) as process:
        load = Load(process.endpoint, journal)
        running = asyncio.create_task(load.run())
        while result.cycles < cycles:
            result.cycles += 1
            wrong += await _kill_after(journal, chance.randint(5, 100), process, running)
            opening = time.monotonic()
            async with SqliteLightningStore(path) as store:
                await store.statistics()
                took = (time.monotonic() - opening) * 1000
                result.slowest_reopening_in_ms = max(result.slowest_reopening_in_ms, took)
                fresh, journal.fresh = journal.fresh, set()
                wrong += await journal.differences(store, fresh)
            result.seconds = time.monotonic() - began
            if wrong:  # the clients cannot go on without what they were told is there
                await _give_up(running)
                return result
            await process.start()
        load.stop()
        await running
        process.kill()
        await process.gone()
    if not journal.all_done():
        wrong.append("lost: the load did not finish")
    async with SqliteLightningStore(path) as store:
        wrong += await journal.differences(store, journal.enqueued.values())
        wrong += await journal.duplicates(store)
    return result


async def _kill_after(journal: Journal, news: int, process: StoreProcess, running: asyncio.Task[None]) -> list[str]:
    """Kill the store in the very moment of its `news`th acknowledgement from now; what the clients missed before."""
    at = journal.acknowledged.total() + news
    killed = asyncio.Event()

    def kill() -> None:
        if journal.acknowledged.total() >= at and not killed.is_set():
            process.kill()
            killed.set()

    journal.on_news = kill
    waiting = asyncio.create_task(killed.wait())
    await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        await process.gone()
        return []
    waiting.cancel()
    if not killed.is_set():
        process.kill()
    await process.gone()
    return [f"lost: {error}" for error in _errors_in(running.exception())]


def _errors_in(error: BaseException | None) -> Sequence[BaseException | None]:
    return error.exceptions if isinstance(error, BaseExceptionGroup) else [error]


async def _give_up(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.wait([running])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    result = Result()
    with on_record("kill_store", result, seed=given.seed), TemporaryDirectory() as folder:
        asyncio.run(kill_again_and_again(Path(folder) / "agl.db", given.cycles, given.seed, result=result))
    print(*result.wrong, sep="\n")
    sys.exit(bool(result.wrong))


if __name__ == "__main__":
    main()
