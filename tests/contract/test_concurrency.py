"""Concurrent calls from several event loops and threads: each takes effect once, in a consistent order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agentlightning.errors import Conflict
from agentlightning.store import LightningStore
from agentlightning.types import AttemptedRollout, Config, EnqueueRolloutRequest

from .conftest import every_way
from .making import RETRYING, claimed, soon, span, statuses


async def in_threads(count: int, work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """Run `work(0)` to `work(count - 1)`, each in its own thread and event loop."""

    async def limited(n: int) -> Any:
        return await soon(work(n))

    with ThreadPoolExecutor(count) as pool:
        running = [asyncio.get_running_loop().run_in_executor(pool, asyncio.run, limited(n)) for n in range(count)]
        return await asyncio.gather(*running)


async def queue(store: LightningStore, count: int) -> list[str]:
    requests = [EnqueueRolloutRequest(input=n) for n in range(count)]
    return [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(requests)]


def ids(attempted: AttemptedRollout) -> tuple[str, str]:
    return attempted.rollout_id, attempted.attempt.attempt_id


@every_way
async def test_fifty_concurrent_claimers_get_each_rollout_once(store: LightningStore) -> None:
    queued = await queue(store, 45)

    claims = await soon(asyncio.gather(*(store.dequeue_rollout(worker_id=f"worker-{n}") for n in range(50))))

    got = [claim.rollout_id for claim in claims if claim]
    assert sorted(got) == sorted(queued)
    assert claims.count(None) == 5
    assert [(await store.query_attempts(rollout_id)).total for rollout_id in queued] == [1] * 45


async def test_claimers_in_threads_get_each_rollout_once_and_in_order(store: LightningStore) -> None:
    queued = await queue(store, 64)

    async def work(n: int) -> list[str]:
        mine: list[str] = []
        while claim := await store.dequeue_rollout(worker_id=f"worker-{n}"):
            mine.append(claim.rollout_id)
            await store.add_span(span(claim))
            await store.update_attempt(*ids(claim), status="succeeded")
        return mine

    handed_out = await in_threads(8, work)

    assert sorted(each for mine in handed_out for each in mine) == sorted(queued)
    assert all(mine == sorted(mine, key=queued.index) for mine in handed_out)
    assert (await store.statistics())["rollouts"] == {"succeeded": 64}


async def test_concurrent_bulk_claims_do_not_overlap(store: LightningStore) -> None:
    queued = await queue(store, 40)

    batches = await soon(asyncio.gather(*(store.dequeue_many_rollouts(limit=3) for _ in range(20))))

    assert sorted(claim.rollout_id for batch in batches for claim in batch) == sorted(queued)


async def test_tasks_enqueued_for_waiting_workers_are_claimed_once(store: LightningStore) -> None:
    done: list[str] = []

    async def work(n: int) -> None:
        while (claim := await store.dequeue_rollout(worker_id=f"worker-{n}", wait=30)) and claim.input is not None:
            done.append(claim.rollout_id)
            await store.update_attempt(*ids(claim), status="succeeded")

    workers = asyncio.gather(*(work(n) for n in range(8)))
    enqueued = await soon(asyncio.gather(*(store.enqueue_rollout(n) for n in range(40))))
    await soon(store.wait_for_rollouts([rollout.rollout_id for rollout in enqueued]))
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=None) for _ in range(8)])
    await soon(workers)

    assert sorted(done) == sorted(rollout.rollout_id for rollout in enqueued)


async def test_each_retry_is_claimed_once(store: LightningStore) -> None:
    requests = [EnqueueRolloutRequest(input=n, config=RETRYING) for n in range(12)]
    queued = [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(requests)]
    claims: Counter[tuple[str, int]] = Counter()

    async def work() -> None:
        while claim := await store.dequeue_rollout():
            claims[claim.rollout_id, claim.attempt.sequence_id] += 1
            await store.update_attempt(*ids(claim), status="failed")

    while (await store.statistics())["queue_depth"]:
        await soon(asyncio.gather(*(work() for _ in range(6))))

    assert claims == Counter({(rollout_id, attempt): 1 for rollout_id in queued for attempt in (1, 2, 3)})
    assert (await store.statistics())["rollouts"] == {"failed": 12}


async def test_one_of_two_concurrent_results_counts(store: LightningStore) -> None:
    for _ in range(10):
        attempted = await claimed(store)

        results = await asyncio.gather(
            *(store.update_attempt(*ids(attempted), status=status) for status in ("succeeded", "failed")),
            return_exceptions=True,
        )

        (winner,) = [result for result in results if not isinstance(result, BaseException)]
        (loser,) = [result for result in results if isinstance(result, BaseException)]
        assert isinstance(loser, Conflict)
        assert await statuses(store, attempted) == (winner.status, winner.status)


async def test_concurrent_cancellation_and_success_leave_one_result(store: LightningStore) -> None:
    for _ in range(10):
        attempted = await claimed(store)

        cancelled, succeeded = await asyncio.gather(
            store.update_rollout(attempted.rollout_id, status="cancelled"),
            store.update_attempt(*ids(attempted), status="succeeded"),
            return_exceptions=True,
        )

        assert await statuses(store, attempted) in [("cancelled", "failed"), ("succeeded", "succeeded")]
        assert isinstance(cancelled, Conflict) != isinstance(succeeded, Conflict)


async def test_concurrent_starts_leave_one_live_attempt(store: LightningStore) -> None:
    attempted = await claimed(store)

    begun = await asyncio.gather(*(store.start_attempt(attempted.rollout_id) for _ in range(10)))

    assert sorted(each.attempt.sequence_id for each in begun) == list(range(2, 12))
    assert await statuses(store, attempted) == ("preparing", *["failed"] * 10, "preparing")


@every_way
async def test_spans_from_many_threads_get_unique_numbers(store: LightningStore) -> None:
    attempted = await claimed(store)

    async def work(thread: int) -> list[int]:
        one = [await store.add_span(span(attempted, thread * 100 + n)) for n in range(5)]
        many = await store.add_many_spans([span(attempted, thread * 100 + 10 + n) for n in range(5)])
        return [each.sequence_id for each in [*one, *many] if each]

    given = await in_threads(6, work)

    assert sorted(number for numbers in given for number in numbers) == list(range(1, 61))
    assert all(numbers == sorted(numbers) for numbers in given)
    stored = await store.query_spans(attempted.rollout_id)
    assert [each.sequence_id for each in stored] == list(range(1, 61))


async def test_span_sent_concurrently_is_stored_once(store: LightningStore) -> None:
    attempted = await claimed(store)

    stored = await asyncio.gather(*(store.add_span(span(attempted, attributes={"n": n})) for n in range(20)))

    assert stored.count(None) == 19
    assert (await store.query_spans(attempted.rollout_id)).items == [each for each in stored if each]


async def test_concurrently_reserved_numbers_are_unique(store: LightningStore) -> None:
    attempted = await claimed(store)

    async def work(_: int) -> list[int]:
        one = [await store.get_next_span_sequence_id(*ids(attempted)) for _ in range(5)]
        return [*one, *await store.get_many_span_sequence_ids([ids(attempted)] * 5)]

    given = await in_threads(6, work)

    assert sorted(number for numbers in given for number in numbers) == list(range(1, 61))


async def test_concurrent_updates_get_unique_versions(store: LightningStore) -> None:
    updates = await asyncio.gather(*(store.update_resources("rs", {"n": Config(value=n)}) for n in range(20)))

    assert sorted(update.version for update in updates) == list(range(1, 21))
    listed = (await store.query_resources()).items
    assert listed == sorted(updates, key=lambda update: update.version)
    assert await store.get_latest_resources() == listed[-1]


async def test_store_works_in_successive_event_loops(store: LightningStore) -> None:
    def use(n: int) -> str:
        return asyncio.run(soon(store.enqueue_rollout(n))).rollout_id

    enqueued = [await asyncio.to_thread(use, n) for n in range(5)]

    assert [rollout.rollout_id for rollout in await store.query_rollouts()] == enqueued


async def test_waiting_worker_in_another_thread_is_woken(store: LightningStore) -> None:
    working = asyncio.create_task(in_threads(3, lambda n: store.dequeue_rollout(worker_id=f"{n}", wait=30)))
    queued = await queue(store, 3)

    assert sorted(claim.rollout_id for claim in await soon(working)) == sorted(queued)
