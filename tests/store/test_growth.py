"""Large stores: fast recovery, constant memory, and constant cost of a call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agentlightning.store import InMemoryLightningStore
from agentlightning.store.db.database import Transaction
from agentlightning.types import AttemptRef

from ..conftest import Figure
from ..contract.making import claimed, span
from ..faults.address_space import fill_and_query
from ..faults.many_spans import fill_and_kill

SPANS, ROLLOUTS, OF_EACH = 10_000, 500, 10


async def test_large_store_reopens_quickly_after_a_crash(tmp_path: Path, figure: Figure) -> None:
    result = await fill_and_kill(tmp_path / "agl.db", SPANS)

    figure(result)
    assert (result.acknowledged, result.lost) == (SPANS, [])
    assert result.reopened_in_ms < 2_000
    assert result.megabytes < 200


async def test_store_works_with_little_address_space(tmp_path: Path, figure: Figure) -> None:
    result = await fill_and_query(tmp_path / "agl.db", 2_000, megabytes=400)

    figure(result)
    assert (result.acknowledged, result.failed) == (2_000, [])


async def test_cost_of_a_call_does_not_grow_with_the_database(figure: Figure) -> None:
    """The cost is counted in instructions of SQLite's virtual machine, which do not depend on the load of the host."""
    async with InMemoryLightningStore() as store:
        empty = await work_of_each_call(store)
        for _ in range(ROLLOUTS):
            attempted = await claimed(store, worker_id="worker-1")
            await store.add_many_spans([span(attempted, n) for n in range(OF_EACH)])
            await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="succeeded")
        await store.enqueue_many_rollouts([{"input": n} for n in range(ROLLOUTS)])  # pyright: ignore
        full = await work_of_each_call(store)

    ratios = {name: round(full[name] / empty[name], 2) for name in empty}
    figure(
        f"work at {2 * ROLLOUTS} rollouts and {ROLLOUTS * OF_EACH} spans, as a multiple of an empty store's: {ratios}"
    )
    assert max(ratios.values()) <= 2


async def set_handler(store: InMemoryLightningStore, handler: Callable[[], bool] | None) -> None:
    """Set the progress handler in the writer's thread, which may be using the connection."""

    async def body(_: Transaction) -> None:
        store._database._connection.set_progress_handler(handler, 1)

    await store._database.write(body)


async def work_of_each_call(store: InMemoryLightningStore) -> dict[str, int]:
    """Return the number of instructions of one call of each kind."""
    done = 0

    def count() -> bool:
        nonlocal done
        done += 1
        return False

    async def work(call: Callable[[], Awaitable[Any]]) -> tuple[int, Any]:
        before = done
        answer = await call()
        return done - before, answer

    await set_handler(store, count)
    try:
        taken: dict[str, int] = {}
        taken["enqueue"], _ = await work(lambda: store.enqueue_rollout("task"))
        taken["claim"], it = await work(lambda: store.dequeue_rollout(worker_id="worker-2"))
        ids = it.rollout_id, it.attempt.attempt_id
        taken["spans"], _ = await work(lambda: store.add_many_spans([span(it, n) for n in range(OF_EACH)]))
        ref = AttemptRef(rollout_id=ids[0], attempt_id=ids[1])
        taken["heartbeat"], _ = await work(lambda: store.update_worker("worker-2", attempts=[ref]))
        taken["finish"], _ = await work(lambda: store.update_attempt(*ids, status="succeeded"))
        taken["rollout"], _ = await work(lambda: store.get_rollout_by_id(ids[0]))
        taken["spans of one"], _ = await work(lambda: store.query_spans(ids[0]))
        taken["latest spans"], _ = await work(lambda: store.query_spans(ids[0], "latest"))
        await store.start_rollout("the last")
        here = await store.query_rollouts(limit=1, offset=(await store.query_rollouts(limit=0)).total - 2)
        taken["last page"], _ = await work(lambda: store.query_rollouts(limit=1, cursor=here.cursor))
        taken["deadlines"], _ = await work(store.expire_overdue)
        return taken
    finally:
        await set_handler(store, None)
