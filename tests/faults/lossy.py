"""Answers, requests and connections lost, cut and doubled on the way to a store: each call happens once all the same.

    python -m tests.faults.lossy --times 200

Every call of our client that changes something meets every fault of `proxy.py` so many times; what the store then
holds is compared with what one call does, and with what the caller was told.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptedRollout, AttemptRef, Config, EnqueueRolloutRequest

from ..contract.making import claimed, soon, span
from .proxy import Fault, Proxy
from .results import on_record

AT_ONCE, MOST_IN_A_ROW = 5, 3


@dataclass
class Lossy:
    """What came of some calls."""

    calls: int = 0
    faults: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return (
            f"{len(CALLS)} changing calls, {len(get_args(Fault))} faults: {self.calls} calls met {self.faults}, "
            f"{len(self.wrong)} did not happen exactly once"
        )


async def meet_every_fault(times: int, *, seed: int = 1, result: Lossy | None = None) -> Lossy:
    """Every call meets every fault so many times: alone, and several in a row."""
    result, chance = result or Lossy(), random.Random(seed)
    for done in range(0, times, AT_ONCE):
        for fault in get_args(Fault):
            # What comes twice is answered, so it is not tried again.
            in_a_row = [
                1 if fault == "twice" or number == 0 else chance.randint(1, MOST_IN_A_ROW)
                for number in range(done, min(times, done + AT_ONCE))
            ]
            wrong = await asyncio.gather(*(happens_once(name, fault, many) for name in CALLS for many in in_a_row))
            result.calls += len(wrong)
            result.faults += len(CALLS) * sum(in_a_row)
            result.wrong += [f"{fault}: {each}" for each in wrong if each]
    return result


async def happens_once(name: str, fault: Fault, times: int) -> str | None:
    """What is wrong after one call met `fault` so many times; None when it happened once and was answered rightly."""
    act, effect = CALLS[name]
    async with served(InMemoryLightningStore()) as server, Proxy(server.endpoint, fault, times) as proxy:
        running, _ = await prepared(server)
        async with LightningStoreClient(proxy.endpoint) as client:
            try:
                answer = await soon(act(client, running))
            except Exception as error:
                return f"{name}: {error!r}"
        if proxy.left > 0:
            return f"{name}: the fault was never met"
        if not await effect(server, running, answer):
            return f"{name}: {answer!r} is not what happened"
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


async def prepared(store: LightningStore) -> tuple[AttemptedRollout, dict[str, dict[str, Any]]]:
    """A store in which every operation has something to do, and the arguments for each."""
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


Act = Callable[[LightningStore, AttemptedRollout], Awaitable[Any]]
Effect = Callable[[LightningStore, AttemptedRollout, Any], Awaitable[bool]]


async def new_rollouts(store: LightningStore) -> list[Any]:
    return [rollout for rollout in await store.query_rollouts() if str(rollout.input).startswith("mine")]


async def attempts(store: LightningStore) -> list[Any]:
    pages = [await store.query_attempts(rollout.rollout_id) for rollout in await store.query_rollouts()]
    return [attempt for page in pages for attempt in page]


def ids(it: AttemptedRollout) -> tuple[str, str]:
    return it.rollout_id, it.attempt.attempt_id


async def _resources(store: LightningStore, _: Any, answer: Any) -> bool:
    return (await store.query_resources()).items[1:] == [answer]


async def _spans(store: LightningStore, it: AttemptedRollout, answer: Any) -> bool:
    return (await store.query_spans(it.rollout_id)).items == (answer if isinstance(answer, list) else [answer])


async def _claims(store: LightningStore, it: AttemptedRollout, answer: Any) -> bool:
    taken = [each.attempt for each in (answer if isinstance(answer, list) else [answer])]
    return [attempt for attempt in await attempts(store) if attempt.rollout_id != it.rollout_id] == taken


CALLS: dict[str, tuple[Act, Effect]] = {
    "start_rollout": (
        lambda store, it: store.start_rollout("mine"),
        lambda store, it, answer: _equal(new_rollouts(store), [answer]),
    ),
    "enqueue_rollout": (
        lambda store, it: store.enqueue_rollout("mine"),
        lambda store, it, answer: _equal(new_rollouts(store), [answer]),
    ),
    "enqueue_many_rollouts": (
        lambda store, it: store.enqueue_many_rollouts([EnqueueRolloutRequest(input=f"mine {n}") for n in range(3)]),
        lambda store, it, answer: _equal(new_rollouts(store), answer),
    ),
    "dequeue_rollout": (lambda store, it: store.dequeue_rollout(worker_id="worker-2"), _claims),
    "dequeue_rollout, waiting": (lambda store, it: store.dequeue_rollout(wait=20), _claims),
    "dequeue_many_rollouts": (lambda store, it: store.dequeue_many_rollouts(limit=2), _claims),
    "start_attempt": (
        lambda store, it: store.start_attempt(it.rollout_id),
        lambda store, it, answer: _equal(_ids(store, it), [it.attempt.attempt_id, answer.attempt.attempt_id]),
    ),
    "update_rollout": (
        lambda store, it: store.update_rollout(it.rollout_id, status="cancelled"),
        lambda store, it, answer: _equal(store.get_rollout_by_id(it.rollout_id), answer),
    ),
    "update_attempt": (
        lambda store, it: store.update_attempt(*ids(it), status="succeeded"),
        lambda store, it, answer: _equal(store.get_latest_attempt(it.rollout_id), answer),
    ),
    "add_resources": (lambda store, it: store.add_resources({"n": Config(value=2)}), _resources),
    "update_resources": (lambda store, it: store.update_resources("rs-mine", {"n": Config(value=2)}), _resources),
    "add_span": (lambda store, it: store.add_span(span(it)), _spans),
    "add_many_spans": (lambda store, it: store.add_many_spans([span(it, 1), span(it, 2)]), _spans),
    "get_next_span_sequence_id": (
        lambda store, it: store.get_next_span_sequence_id(*ids(it)),
        lambda store, it, answer: _equal(store.get_next_span_sequence_id(*ids(it)), answer + 1),
    ),
    "get_many_span_sequence_ids": (
        lambda store, it: store.get_many_span_sequence_ids([ids(it)] * 2),
        lambda store, it, answer: _equal(store.get_next_span_sequence_id(*ids(it)), answer[-1] + 1),
    ),
    "update_worker": (
        lambda store, it: store.update_worker(
            "worker-1", {"cpu": 2}, [AttemptRef(rollout_id=it.rollout_id, attempt_id=it.attempt.attempt_id)]
        ),
        lambda store, it, answer: _equal(store.get_worker_by_id("worker-1"), answer),
    ),
    "hold_lease": (
        lambda store, it: store.hold_lease("trainer", "mine", 600),
        lambda store, it, answer: _equal(_held(store), (answer["holder"], answer["since"], answer["seen"])),
    ),
}


async def _held(store: LightningStore) -> tuple[str, float, float]:
    lease = await store.hold_lease("trainer", "another")
    return lease["holder"], lease["since"], lease["seen"]


async def _equal(found: Awaitable[Any], expected: Any) -> bool:
    return await found == expected


async def _ids(store: LightningStore, it: AttemptedRollout) -> list[str]:
    return [attempt.attempt_id for attempt in await store.query_attempts(it.rollout_id)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    result = Lossy()
    with on_record("lossy", result, seed=given.seed):
        asyncio.run(meet_every_fault(given.times, seed=given.seed, result=result))
    print(*result.wrong, sep="\n")
    raise SystemExit(bool(result.wrong))


if __name__ == "__main__":
    main()
