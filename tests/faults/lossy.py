"""Requests and responses that are lost, truncated or duplicated: each call still takes effect exactly once.

    python -m tests.faults.lossy --times 200

Every mutating call of the client meets every fault of `proxy.py` a number of times. The store's contents are then
compared with the effect of one call, and with the response that the caller received.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptedRollout, AttemptRef, Config, EnqueueRolloutRequest

from ..contract.making import claimed, soon, span
from .long_run import run_from_command_line
from .proxy import Fault, FaultyProxy

CONCURRENCY, MAX_CONSECUTIVE_FAULTS = 5, 3


@dataclass
class LossyResult:
    """Number of calls, and those that did not take effect exactly once."""

    calls: int = 0
    faults: int = 0
    wrong: list[str] = field(default_factory=list[str])

    @property
    def problems(self) -> list[str]:
        return self.wrong

    def __str__(self) -> str:
        return (
            f"{len(CALLS)} changing calls, {len(get_args(Fault))} faults: {self.calls} calls, {self.faults} faults, "
            f"{len(self.wrong)} did not happen exactly once"
        )


async def run_with_every_fault(times: int, *, seed: int = 1, result: LossyResult | None = None) -> LossyResult:
    """Run every call `times` times with every fault, single and several in sequence."""
    result, rng = result or LossyResult(), random.Random(seed)
    for done in range(0, times, CONCURRENCY):
        for fault in get_args(Fault):
            # A duplicated request is answered, so the client does not repeat rollout.
            counts = [
                1 if fault == "twice" or number == 0 else rng.randint(1, MAX_CONSECUTIVE_FAULTS)
                for number in range(done, min(times, done + CONCURRENCY))
            ]
            problems = await asyncio.gather(*(run_with_fault(name, fault, n) for name in CALLS for n in counts))
            result.calls += len(problems)
            result.faults += len(CALLS) * sum(counts)
            result.wrong += [f"{fault}: {problem}" for problem in problems if problem]
    return result


async def run_with_fault(name: str, fault: Fault, times: int) -> str | None:
    """Run one call with consecutive faults; return the problem, or None if the call took effect exactly once."""
    call, is_expected = CALLS[name]
    async with served(InMemoryLightningStore()) as server, FaultyProxy(server.endpoint, fault, times) as proxy:
        running, _ = await prepare(server)
        async with LightningStoreClient(proxy.endpoint) as client:
            try:
                response = await soon(call(client, running))
            except Exception as error:
                return f"{name}: {error!r}"
        if proxy.faults_left > 0:
            return f"{name}: the fault never occurred"
        if not await is_expected(server, running, response):
            return f"{name}: {response!r} differs from the store's contents"
    return None


@asynccontextmanager
async def served(store: LightningStore, **settings: Any) -> AsyncIterator[LightningStoreServer]:
    async with store:
        server = LightningStoreServer(store, port=0, **settings)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


async def prepare(store: LightningStore) -> tuple[AttemptedRollout, dict[str, dict[str, Any]]]:
    """Fill the store so that every operation has an effect; return a running rollout and arguments for each."""
    running = await claimed(store, worker_id="worker-1")
    await store.update_resources("rs-mine", {"config": Config(value=1)})
    for n in range(3):
        await store.enqueue_rollout(f"queued {n}")
    ids = {"rollout_id": running.rollout_id, "attempt_id": running.attempt.attempt_id}
    spans = [span(running, n).model_dump() for n in (1, 2)]
    return running, {
        "start_rollout": {"input": "mine"},
        "enqueue_rollout": {"input": "mine"},
        "enqueue_many_rollouts": {"rollouts": [{"input": "mine"}, {"input": "mine too"}]},
        "dequeue_rollout": {"worker_id": "worker-2"},
        "dequeue_many_rollouts": {"limit": 2},
        "start_attempt": {"rollout_id": running.rollout_id},
        "update_rollout": {"rollout_id": running.rollout_id, "status": "cancelled"},
        "update_attempt": {**ids, "status": "succeeded"},
        "add_resources": {"resources": {"prompt": "mine"}},
        "update_resources": {"resources_id": "rs-mine", "resources": {"prompt": "mine"}},
        "add_span": {"span": spans[0]},
        "add_many_spans": {"spans": spans},
        "get_next_span_sequence_id": ids,
        "get_many_span_sequence_ids": {"rollout_attempt_ids": [list(ids.values())] * 2},
        "update_worker": {"worker_id": "worker-1", "heartbeat_stats": {"cpu": 1}},
        "hold_lease": {"name": "trainer", "holder": "mine"},
    }


Call = Callable[[LightningStore, AttemptedRollout], Awaitable[Any]]
Expectation = Callable[[LightningStore, AttemptedRollout, Any], Awaitable[bool]]
"""True if the store contains exactly the call's effect, and the response describes it."""


async def new_rollouts(store: LightningStore) -> list[Any]:
    return [rollout for rollout in await store.query_rollouts() if str(rollout.input).startswith("mine")]


async def attempts(store: LightningStore) -> list[Any]:
    pages = [await store.query_attempts(rollout.rollout_id) for rollout in await store.query_rollouts()]
    return [attempt for page in pages for attempt in page]


def ids(rollout: AttemptedRollout) -> tuple[str, str]:
    return rollout.rollout_id, rollout.attempt.attempt_id


async def _has_resources(store: LightningStore, _: Any, answer: Any) -> bool:
    return (await store.query_resources()).items[1:] == [answer]


async def _has_spans(store: LightningStore, rollout: AttemptedRollout, answer: Any) -> bool:
    return (await store.query_spans(rollout.rollout_id)).items == (answer if isinstance(answer, list) else [answer])


async def _has_claims(store: LightningStore, rollout: AttemptedRollout, answer: Any) -> bool:
    claimed = [each.attempt for each in (answer if isinstance(answer, list) else [answer])]
    return [attempt for attempt in await attempts(store) if attempt.rollout_id != rollout.rollout_id] == claimed


CALLS: dict[str, tuple[Call, Expectation]] = {
    "start_rollout": (
        lambda store, rollout: store.start_rollout("mine"),
        lambda store, rollout, answer: _equal(new_rollouts(store), [answer]),
    ),
    "enqueue_rollout": (
        lambda store, rollout: store.enqueue_rollout("mine"),
        lambda store, rollout, answer: _equal(new_rollouts(store), [answer]),
    ),
    "enqueue_many_rollouts": (
        lambda store, rollout: store.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input=f"mine {n}") for n in range(3)]
        ),
        lambda store, rollout, answer: _equal(new_rollouts(store), answer),
    ),
    "dequeue_rollout": (lambda store, rollout: store.dequeue_rollout(worker_id="worker-2"), _has_claims),
    "dequeue_rollout, waiting": (lambda store, rollout: store.dequeue_rollout(wait=20), _has_claims),
    "dequeue_many_rollouts": (lambda store, rollout: store.dequeue_many_rollouts(limit=2), _has_claims),
    "start_attempt": (
        lambda store, rollout: store.start_attempt(rollout.rollout_id),
        lambda store, rollout, answer: _equal(
            _attempt_ids(store, rollout), [rollout.attempt.attempt_id, answer.attempt.attempt_id]
        ),
    ),
    "update_rollout": (
        lambda store, rollout: store.update_rollout(rollout.rollout_id, status="cancelled"),
        lambda store, rollout, answer: _equal(store.get_rollout_by_id(rollout.rollout_id), answer),
    ),
    "update_attempt": (
        lambda store, rollout: store.update_attempt(*ids(rollout), status="succeeded"),
        lambda store, rollout, answer: _equal(store.get_latest_attempt(rollout.rollout_id), answer),
    ),
    "add_resources": (lambda store, rollout: store.add_resources({"n": Config(value=2)}), _has_resources),
    "update_resources": (
        lambda store, rollout: store.update_resources("rs-mine", {"n": Config(value=2)}),
        _has_resources,
    ),
    "add_span": (lambda store, rollout: store.add_span(span(rollout)), _has_spans),
    "add_many_spans": (lambda store, rollout: store.add_many_spans([span(rollout, 1), span(rollout, 2)]), _has_spans),
    "get_next_span_sequence_id": (
        lambda store, rollout: store.get_next_span_sequence_id(*ids(rollout)),
        lambda store, rollout, answer: _equal(store.get_next_span_sequence_id(*ids(rollout)), answer + 1),
    ),
    "get_many_span_sequence_ids": (
        lambda store, rollout: store.get_many_span_sequence_ids([ids(rollout)] * 2),
        lambda store, rollout, answer: _equal(store.get_next_span_sequence_id(*ids(rollout)), answer[-1] + 1),
    ),
    "update_worker": (
        lambda store, rollout: store.update_worker(
            "worker-1", {"cpu": 2}, [AttemptRef(rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id)]
        ),
        lambda store, rollout, answer: _equal(store.get_worker_by_id("worker-1"), answer),
    ),
    "hold_lease": (
        lambda store, rollout: store.hold_lease("trainer", "mine", 600),
        lambda store, rollout, answer: _equal(_lease(store), (answer["holder"], answer["since"], answer["seen"])),
    ),
}


async def _lease(store: LightningStore) -> tuple[str, float, float]:
    lease = await store.hold_lease("trainer", "another")
    return lease["holder"], lease["since"], lease["seen"]


async def _equal(stored: Awaitable[Any], expected: Any) -> bool:
    return await stored == expected


async def _attempt_ids(store: LightningStore, rollout: AttemptedRollout) -> list[str]:
    return [attempt.attempt_id for attempt in await store.query_attempts(rollout.rollout_id)]


def main() -> None:
    result = LossyResult()
    run_from_command_line(
        "lossy",
        __doc__,
        result,
        lambda given, _: asyncio.run(run_with_every_fault(given.times, seed=given.seed, result=result)),
        times=200,
        seed=1,
    )


if __name__ == "__main__":
    main()
