"""Statement coalescing and batch execution on PostgreSQL: the statements sent, and unchanged results."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any, cast

import asyncpg
import pytest

from agentlightning.errors import Conflict
from agentlightning.store import LightningStore, PostgresLightningStore
from agentlightning.store.db.database import NEW_ROLLOUTS, QUEUE_HEAD, Body, ConflictKey, WriteRequest
from agentlightning.store.db.postgres import coalescing
from agentlightning.store.db.postgres.coalescing import WriteBuffer, combine, over_rows, supports_rows
from agentlightning.store.db.postgres.executor import conflict_free_groups
from agentlightning.types import AttemptedRollout, AttemptStatus

from ..contract.making import RETRYING, claimed, span
from ..postgres import empty_database, run


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with empty_database() as url:
        yield url


def test_statements_are_combined_with_their_values() -> None:
    statements = ("UPDATE a SET x = ?2 WHERE y = ?1", "INSERT INTO b (z) VALUES (?1)", "DELETE FROM c WHERE z = ?1")

    assert combine(statements, (2, 1, 1)) == (
        "WITH s0 AS (UPDATE a SET x = $2 WHERE y = $1), s1 AS (INSERT INTO b (z) VALUES ($3)) "
        "DELETE FROM c WHERE z = $4"
    )


@pytest.mark.parametrize(
    ("sql", "over_rows_sql"),
    [
        (
            "SELECT x FROM a WHERE y = ?1 FOR UPDATE",
            (
                "SELECT v.n, q.* FROM unnest($1::text[]) WITH ORDINALITY AS v(p1, n) "
                "CROSS JOIN LATERAL (SELECT x FROM a WHERE y = v.p1 FOR UPDATE) q"
            ),
        ),
        (
            "UPDATE a SET x = (SELECT max(x) FROM b) WHERE y = ?1 AND z IS NOT NULL RETURNING x",
            (
                "UPDATE a SET x = (SELECT max(x) FROM b) FROM unnest($1::text[]) WITH ORDINALITY AS v(p1, n) "
                "WHERE y = v.p1 AND z IS NOT NULL RETURNING v.n, x"
            ),
        ),
        (
            "INSERT INTO a (y, x) VALUES (?1, (SELECT max(x) FROM a)) ON CONFLICT (y) DO NOTHING RETURNING y, x",
            (
                "INSERT INTO a (y, x) SELECT v.p1, (SELECT max(x) FROM a) "
                "FROM unnest($1::text[]) WITH ORDINALITY AS v(p1, n) ORDER BY v.n "
                "ON CONFLICT (y) DO NOTHING RETURNING y, x"
            ),
        ),
    ],
)
def test_statement_is_rewritten_over_rows_of_values(sql: str, over_rows_sql: str) -> None:
    assert supports_rows(sql)
    assert over_rows(sql, ("text",)) == over_rows_sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT x FROM a LIMIT ?1",
        "DELETE FROM a WHERE y = ?1",
        "UPDATE a SET x = 1 WHERE y < ?1",
        "INSERT INTO a (y, x) VALUES (?1, ?2) RETURNING x",
        "INSERT INTO a (y) SELECT 1",
    ],
)
def test_unsupported_statements_are_sent_separately(sql: str) -> None:
    assert not supports_rows(sql)


def test_change_is_buffered_until_its_table_is_read() -> None:
    buffer = WriteBuffer()
    buffer.add("UPDATE rollouts SET status = ?2 WHERE rollout_id = ?1", [["ro-1", "failed"]])

    assert not buffer.must_precede("SELECT status FROM workers")
    assert buffer.must_precede("SELECT 1 FROM attempts a JOIN rollouts r ON true")
    assert buffer.must_precede("UPDATE rollouts SET mode = ?1")
    assert buffer.take() == {"UPDATE rollouts SET status = ?2 WHERE rollout_id = ?1": [["ro-1", "failed"]]}
    assert not buffer


@pytest.mark.parametrize("sql", ["ALTER TABLE rollouts ADD COLUMN mood text", "CREATE INDEX moods ON rollouts (mood)"])
def test_schema_change_flushes_the_buffer(sql: str) -> None:
    buffer = WriteBuffer()
    assert not buffer.must_precede(sql)
    buffer.add("UPDATE rollouts SET mood = ?1", [["fine"]])

    assert buffer.must_precede(sql)


async def test_last_of_two_changes_of_a_row_wins(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE things (name text PRIMARY KEY, size int)")
    await connection.execute("INSERT INTO things VALUES ('a', 0), ('b', 0)")
    change = "UPDATE things SET size = ?2 WHERE name = ?1"

    await coalescing.RowBatcher(connection).send([{change: [("a", 1), ("a", 2)]}, {change: [("b", 3)]}])

    found = await connection.fetch("SELECT name, size FROM things ORDER BY name")
    assert list(map(tuple, found)) == [("a", 2), ("b", 3)]
    await connection.close()


async def test_requests_without_conflicts_share_a_group() -> None:
    first, second = ConflictKey("attempts", "ro-1"), ConflictKey("attempts", "ro-2")
    keys = [first, NEW_ROLLOUTS, second, QUEUE_HEAD, first, QUEUE_HEAD, None, NEW_ROLLOUTS, None]
    requests = [write_request(conflict_key=key) for key in keys]

    assert [[requests.index(request) for request in group] for group in conflict_free_groups(requests)] == [
        [0, 2],
        [1],
        [3, 5],
        [4],
        [6],
        [7],
        [8],
    ]


async def test_requests_with_one_idempotency_key_never_share_a_group() -> None:
    requests = [write_request(key=key, conflict_key=QUEUE_HEAD) for key in ("a", "a", "b")]

    assert list(conflict_free_groups(requests)) == [[requests[0], requests[2]], [requests[1]]]


def write_request(**keys: Any) -> WriteRequest:
    return WriteRequest(cast("Body[Any]", None), asyncio.get_running_loop().create_future(), **keys)


async def test_failed_request_does_not_affect_its_group(url: str) -> None:
    async with PostgresLightningStore(url) as store:
        attempts = [await claimed(store, worker_id=f"worker-{n}") for n in range(6)]
        await _end(store, attempts[_FAILING], "failed")

        ends = [_end(store, attempted, "succeeded") for attempted in attempts]
        answers = await asyncio.gather(*ends, return_exceptions=True)

        assert [isinstance(answer, Conflict) for answer in answers] == [n == _FAILING for n in range(6)]
        assert (await store.statistics())["rollouts"] == {"failed": 1, "succeeded": 5}


async def test_database_error_of_one_request_does_not_affect_its_group(url: str) -> None:
    async with PostgresLightningStore(url) as store:
        attempts = [await claimed(store) for _ in range(6)]
        await run(url, "ALTER TABLE spans ADD CONSTRAINT picky CHECK (name <> 'bad')")

        names = ["bad" if n == _FAILING else "good" for n in range(6)]
        adds = [store.add_span(span(each, name=name)) for each, name in zip(attempts, names, strict=True)]
        answers = await asyncio.gather(*adds, return_exceptions=True)

        assert [isinstance(answer, Exception) for answer in answers] == [n == _FAILING for n in range(6)]
        stored = [await store.query_spans(attempted.rollout_id) for attempted in attempts]
        assert [len(spans) for spans in stored] == [n != _FAILING for n in range(6)]


async def test_worker_is_idle_after_two_attempts_end_in_one_group(url: str) -> None:
    async with PostgresLightningStore(url) as store:
        attempts = [await claimed(store, worker_id="busy") for _ in range(6)]

        await asyncio.gather(*(_end(store, attempted, "succeeded") for attempted in attempts))

        (worker,) = await store.query_workers()
        assert (worker.status, worker.current_rollout_id) == ("idle", None)


async def test_claims_in_one_group_take_one_rollout_each(url: str) -> None:
    async with PostgresLightningStore(url) as store:
        enqueued = [await store.enqueue_rollout(n) for n in range(5)]

        taken = await asyncio.gather(*(store.dequeue_rollout(worker_id=f"worker-{n}") for n in range(7)))

        assert [each.rollout_id for each in taken if each] == [rollout.rollout_id for rollout in enqueued]
        assert taken[5:] == [None, None]


async def test_grouped_calls_have_the_result_of_sequential_calls(url: str) -> None:
    async with PostgresLightningStore(url) as store:
        await asyncio.gather(*(_enqueue_and_run(store, random.Random(seed)) for seed in range(_RUNNERS)))
        await _run_all(store, random.Random(_RUNNERS))  # retries of the last failures

        rollouts = await store.query_rollouts()
        attempts = [(await store.query_attempts(rollout.rollout_id)).items for rollout in rollouts]
        spans = [await store.query_spans(each.rollout_id, each.attempt_id) for several in attempts for each in several]
        workers = await store.query_workers()

    assert [rollout.status for rollout in rollouts] == ["succeeded"] * _RUNNERS * _ROUNDS
    assert all([each.status for each in several][-1] == "succeeded" for several in attempts)
    assert all([each.sequence_id for each in several] == [1, 2, 3][: len(several)] for several in attempts)
    assert [[span.sequence_id for span in each] for each in spans] == [[1, 2, 3]] * len(spans)
    assert {(worker.status, worker.current_rollout_id) for worker in workers} == {("idle", None)}


_RUNNERS, _ROUNDS = 24, 3


async def _enqueue_and_run(store: LightningStore, rng: random.Random) -> None:
    for _ in range(_ROUNDS):
        await store.enqueue_rollout(None, config=RETRYING)
        await store.update_worker(f"worker-{rng.randrange(8)}")
    await _run_all(store, rng)


async def _run_all(store: LightningStore, rng: random.Random) -> None:
    """Run all rollouts: some attempts fail and are retried, spans are sent twice, workers hold several attempts."""
    while attempted := await store.dequeue_rollout(worker_id=f"worker-{rng.randrange(8)}"):
        fails = attempted.attempt.sequence_id < 3 and rng.random() < 0.3
        spans = [span(attempted, n) for n in (1, 2, 3)]
        await asyncio.gather(*map(store.add_span, spans))
        await store.add_many_spans(spans)
        await _end(store, attempted, "failed" if fails else "succeeded")


async def test_large_span_batches_are_split_and_stored(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalescing, "MAX_BATCH_BYTES", 2_000)
    async with PostgresLightningStore(url) as store:
        attempts = [await claimed(store) for _ in range(6)]

        await asyncio.gather(*(store.add_many_spans([span(each, n) for n in range(1, 4)]) for each in attempts))

        stored = [await store.query_spans(attempted.rollout_id) for attempted in attempts]
        assert [[each.sequence_id for each in spans] for spans in stored] == [[1, 2, 3]] * 6


_FAILING = 3
"""Not the first request: it runs alone while the others gather."""


async def _end(store: LightningStore, attempted: AttemptedRollout, status: AttemptStatus) -> None:
    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status=status)
