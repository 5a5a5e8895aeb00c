"""SqlStore: the contract, as transactions in the SQL that all databases share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from .. import payload
from ..errors import FinalStatus, InvalidInput, NotFound
from ..types import (
    Attempt,
    AttemptedRollout,
    AttemptRef,
    AttemptStatus,
    EnqueueRolloutRequest,
    NamedResources,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Span,
    Worker,
    WorkerStatus,
)
from . import encoded_span, lifecycle, rows
from .answers import AlreadyAnswered, asked, forget, forget_old, once
from .clock import Clock
from .contract import (
    UNSET,
    AnyRollout,
    Capabilities,
    FilterLogic,
    LightningStore,
    SortOrder,
    Statistics,
    Unset,
)
from .database import Body, Database, Row, Transaction, any_of
from .encoded_span import EncodedSpan
from .moves import LATEST, Moves
from .query import Query, check_page
from .rows import AttemptRow
from .signals import QUEUE, ended

T = TypeVar("T")

WORKER_SILENCE_SECONDS = lifecycle.DEFAULT_UNRESPONSIVE_SECONDS
GIVEN_UP_AT_ONCE = 500
"""Deadlines handled in one transaction; the rest come in the next."""

_ROLLOUT_SORT = {
    field: f"r.{field}"
    for field in ("rollout_id", "start_time", "end_time", "mode", "resources_id", "resources_version", "status")
}
_ATTEMPT_SORT = {
    field: f"a.{field}"
    for field in (
        "attempt_id",
        "end_time",
        "last_heartbeat_time",
        "rollout_id",
        "sequence_id",
        "start_time",
        "status",
        "worker_id",
    )
}
_RESOURCES_SORT = {field: field for field in ("create_time", "resources_id", "update_time", "version")}
_SPAN_SORT = {
    field: field
    for field in (
        "attempt_id",
        "end_time",
        "name",
        "parent_id",
        "rollout_id",
        "sequence_id",
        "span_id",
        "start_time",
        "trace_id",
    )
}
_WORKER_SORT = {field: field for field in rows.WORKER.split(", ") if field != "heartbeat_stats"}


class SqlStore(LightningStore):
    """The store over one `Database`. Use the stores of `backends.py`, which bring one along."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    # Rollouts

    async def start_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> AttemptedRollout:
        request = _Request(input, mode, resources_id, config, metadata)
        _check_worker(worker_id)

        async def body(transaction: Transaction) -> AttemptedRollout:
            rollout = await self._insert(transaction, request)
            row = await self._moves(transaction).rollout_row(rollout.rollout_id)
            return await self._moves(transaction).begin(row, 0, worker_id)

        return await self._write(body)

    async def enqueue_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Rollout:
        request = _Request(input, mode, resources_id, config, metadata)

        async def body(transaction: Transaction) -> Rollout:
            rollout = await self._insert(transaction, request)
            await self._moves(transaction).enqueue(rollout.rollout_id, rollout.status)
            return rollout

        return await self._write(body)

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> list[Rollout]:
        requests = [
            _Request(asked.input, asked.mode, asked.resources_id, asked.config, asked.metadata) for asked in rollouts
        ]

        async def body(transaction: Transaction) -> list[Rollout]:
            made = [await self._insert(transaction, request) for request in requests]
            for rollout in made:
                await self._moves(transaction).enqueue(rollout.rollout_id, rollout.status)
            return made

        return await self._write(body)

    async def dequeue_rollout(self, worker_id: str | None = None, wait: float = 0.0) -> AttemptedRollout | None:
        async def one(transaction: Transaction) -> AttemptedRollout | None:
            claimed = await self._claim(transaction, 1, worker_id)
            return claimed[0] if claimed else None

        _check_worker(worker_id)
        return await self._claim_or_wait(one, wait)

    async def dequeue_many_rollouts(
        self, *, limit: int = 1, worker_id: str | None = None, wait: float = 0.0
    ) -> list[AttemptedRollout]:
        async def many(transaction: Transaction) -> list[AttemptedRollout]:
            return await self._claim(transaction, limit, worker_id)

        _check_worker(worker_id)
        if limit < 0:
            raise InvalidInput("limit cannot be negative", field="limit")
        return await self._claim_or_wait(many, wait) if limit else []

    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        _check_worker(worker_id)

        async def body(transaction: Transaction) -> AttemptedRollout:
            moves = self._moves(transaction)
            rollout = rows.any_rollout(await moves.rollout_row(rollout_id))
            if rollout.status in lifecycle.FINAL:
                raise FinalStatus(f"rollout {rollout_id} has already ended ({rollout.status}); enqueue a new one")
            await moves.end_live_attempt(rollout_id, "failed", "superseded by an attempt started by hand")
            made = await transaction.fetch("SELECT attempts FROM rollouts WHERE rollout_id = ?1", rollout_id)
            return await moves.begin(await moves.rollout_row(rollout_id), made[0][0], worker_id)

        return await self._write(body)

    async def query_rollouts(
        self,
        rollout_id_in: Sequence[str] | None = None,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
    ) -> PaginatedResult[AnyRollout]:
        query = Query(self._database.dialect, rows.ROLLOUT_AND_ATTEMPT, rows.ROLLOUTS, order="r.ordinal")
        query.among("r.rollout_id", rollout_ids if rollout_id_in is None else rollout_id_in)
        query.among("r.status", status if status_in is None else status_in)
        query.contains("r.rollout_id", rollout_id_contains)
        query.sort(sort_by, sort_order, _ROLLOUT_SORT)
        return await self._page(query, rows.any_rollout, filter_logic, sort_order, limit, offset)

    async def get_rollout_by_id(self, rollout_id: str) -> AnyRollout | None:
        found = await self._rollouts([rollout_id])
        return found[0] if found else None

    async def update_rollout(
        self,
        rollout_id: str,
        input: Any = UNSET,
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> AnyRollout:
        fields: dict[str, Any] = {
            "input": input if isinstance(input, Unset) else payload.dumps(input, field="input"),
            "mode": mode,
            "config": config if isinstance(config, Unset) else rows.config_json(config),
            "metadata": metadata if isinstance(metadata, Unset) else payload.dumps(metadata or {}, field="metadata"),
        }

        async def body(transaction: Transaction) -> AnyRollout:
            moves = self._moves(transaction)
            before = rows.any_rollout(await moves.rollout_row(rollout_id))
            changed = {name: value for name, value in fields.items() if not isinstance(value, Unset)}
            if not isinstance(resources_id, Unset):
                changed["resources_id"], changed["resources_version"] = await _version(transaction, resources_id)
            if before.status in lifecycle.FINAL and changed.keys() - {"metadata"}:
                raise FinalStatus(f"rollout {rollout_id} has already ended ({before.status}); nothing changes it now")
            for column, value in changed.items():
                await transaction.execute(f"UPDATE rollouts SET {column} = ?2 WHERE rollout_id = ?1", rollout_id, value)
            if "config" in changed and isinstance(before, AttemptedRollout):
                await self._renew_deadline(transaction, rollout_id, before.attempt.attempt_id)
            if not isinstance(status, Unset):
                await self._set_by_hand(moves, before, status)
            return rows.any_rollout(await moves.rollout_row(rollout_id))

        return await self._write(body)

    async def wait_for_rollouts(self, rollout_ids: Sequence[str], timeout: float | None = None) -> list[AnyRollout]:
        ids = list(dict.fromkeys(rollout_ids))
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._database.signals.listen(*map(ended, ids)) as waiter:
            unfinished = await self._unfinished(ids)
            while unfinished and not self._database.signals.closed:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                # An end is announced once and is final, so a topic that woke us is done with.
                unfinished -= {topic.partition(":")[2] for topic in await waiter.wait(left)}
        by_id = {rollout.rollout_id: rollout for rollout in await self._rollouts(ids)}
        return [by_id[rollout_id] for rollout_id in ids if by_id[rollout_id].status in lifecycle.FINAL]

    # Attempts

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Attempt]:
        query = Query(self._database.dialect, rows.ATTEMPT, "attempts a", order="a.ordinal")
        query.always("a.rollout_id = {}", rollout_id)
        query.sort(sort_by, sort_order, _ATTEMPT_SORT)
        return await self._page(query, rows.attempt, "and", sort_order, limit, offset)

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        rollout = await self.get_rollout_by_id(rollout_id)
        return rollout.attempt if isinstance(rollout, AttemptedRollout) else None

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset = UNSET,
    ) -> Attempt:
        text = metadata if isinstance(metadata, Unset) else payload.dumps(metadata, field="metadata")

        async def body(transaction: Transaction) -> Attempt:
            moves = self._moves(transaction)
            row = await moves.attempt_row(rollout_id, attempt_id)
            following = lifecycle.report(row.standing, row.standing.attempt if isinstance(status, Unset) else status)
            if not isinstance(text, Unset):
                row.metadata = text
                await transaction.execute("UPDATE attempts SET metadata = ?2 WHERE ordinal = ?1", row.ordinal, text)
            if not isinstance(worker_id, Unset):
                _check_worker(worker_id)
                await transaction.execute(
                    "UPDATE attempts SET worker_id = ?2 WHERE ordinal = ?1", row.ordinal, worker_id
                )
            if not isinstance(last_heartbeat_time, Unset):
                await moves.sign_of_life(row)
            if following.attempt != row.standing.attempt:
                await moves.follow(row, following)
            found = await transaction.fetch(f"SELECT {rows.ATTEMPT} FROM attempts a WHERE ordinal = ?1", row.ordinal)
            return rows.attempt(found[0])

        return await self._write(body)

    # Resources

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        return await self._store_resources(rows.new_id("rs", 12), resources)

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        return await self._store_resources(payload.check_id(resources_id, "resources_id"), resources)

    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[ResourcesUpdate]:
        query = Query(self._database.dialect, rows.RESOURCES, "resources", order="ordinal")
        query.equals("resources_id", resources_id)
        query.contains("resources_id", resources_id_contains)
        query.sort(sort_by, sort_order, _RESOURCES_SORT)
        return await self._page(query, rows.resources_update, filter_logic, sort_order, limit, offset)

    async def get_resources_by_id(self, resources_id: str, version: int | None = None) -> ResourcesUpdate | None:
        if version is None:
            return await self._resources("WHERE resources_id = ?1 ORDER BY version DESC", resources_id)
        return await self._resources("WHERE resources_id = ?1 AND version = ?2", resources_id, version)

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        return await self._resources("ORDER BY ordinal DESC")

    # Spans

    async def add_span(self, span: Span) -> Span | None:
        stored = await self.add_many_spans([span])
        return stored[0] if stored else None

    async def add_many_spans(self, spans: Sequence[Span]) -> list[Span]:
        numbers = await self.add_encoded_spans(encoded_span.encode(spans))
        return [
            span.model_copy(update={"sequence_id": number})
            for span, number in zip(spans, numbers, strict=True)
            if number is not None
        ]

    async def add_encoded_spans(self, spans: Sequence[EncodedSpan]) -> list[int | None]:
        """Store spans; the number each was given, or None where it was there already."""
        if not spans:
            return []

        async def body(transaction: Transaction) -> list[int | None]:
            moves = self._moves(transaction)
            numbers: dict[int, int | None] = {}
            for (rollout_id, attempt_id), batch in _by_attempt(spans).items():
                row = await moves.attempt_row(rollout_id, attempt_id)
                numbers |= await _insert_spans(moves, row, batch)
            return [numbers[index] for index in range(len(spans))]

        return await self._write(body)

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        return (await self.get_many_span_sequence_ids([(rollout_id, attempt_id)]))[0]

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> list[int]:
        async def body(transaction: Transaction) -> list[int]:
            numbers: list[int] = []
            for rollout_id, attempt_id in rollout_attempt_ids:
                row = await self._moves(transaction).attempt_row(rollout_id, attempt_id)
                taken = await transaction.fetch(
                    "UPDATE attempts SET last_sequence_id = last_sequence_id + 1 WHERE ordinal = ?1 "
                    "RETURNING last_sequence_id",
                    row.ordinal,
                )
                numbers.append(taken[0][0])
            return numbers

        return await self._write(body)

    async def query_spans(
        self, rollout_id: str, attempt_id: str | None = None, **filters: Any
    ) -> PaginatedResult[Span]:
        page = await self.query_encoded_spans(rollout_id, attempt_id, **filters)
        return PaginatedResult[Span].model_construct(
            items=[Span.model_validate_json(text) for text in page.items],
            limit=page.limit,
            offset=page.offset,
            total=page.total,
        )

    async def query_encoded_spans(
        self,
        rollout_id: str,
        attempt_id: str | None = None,
        *,
        trace_id: str | None = None,
        trace_id_contains: str | None = None,
        span_id: str | None = None,
        span_id_contains: str | None = None,
        parent_id: str | None = None,
        parent_id_contains: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[bytes]:
        """`query_spans`, each span as its JSON text."""
        query = Query(self._database.dialect, "payload", "spans", order="ordinal")
        query.always("rollout_id = {}", rollout_id)
        if attempt_id == LATEST:
            query.always("attempt_id = (SELECT attempt_id FROM rollouts WHERE rollout_id = {})", rollout_id)
        elif attempt_id is not None:
            query.always("attempt_id = {}", attempt_id)
        exact = {"trace_id": trace_id, "span_id": span_id, "parent_id": parent_id, "name": name}
        for column, value in exact.items():
            query.equals(column, value)
        query.contains("trace_id", trace_id_contains)
        query.contains("span_id", span_id_contains)
        query.contains("parent_id", parent_id_contains)
        query.contains("name", name_contains)
        query.sort(sort_by, sort_order, _SPAN_SORT)
        return await self._page(query, _payload, filter_logic, sort_order, limit, offset)

    # Workers

    async def update_worker(
        self,
        worker_id: str,
        heartbeat_stats: dict[str, Any] | None = None,
        attempts: Sequence[AttemptRef] | None = None,
    ) -> Worker:
        _check_worker(worker_id)
        stats = rows.json_or_null(heartbeat_stats, "heartbeat_stats")

        async def body(transaction: Transaction) -> Worker:
            held = await _held_by(transaction, worker_id) if attempts is None else attempts
            moves = self._moves(transaction)
            stale = [ref for ref in held if not await _is_alive(moves, ref)]
            worker = await self._note_heartbeat(transaction, worker_id, stats)
            return worker.model_copy(update={"stale_attempts": stale})

        return await self._write(body)

    async def query_workers(
        self,
        *,
        status_in: Sequence[WorkerStatus] | None = None,
        worker_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Worker]:
        query = Query(self._database.dialect, rows.WORKER, "workers", order="ordinal")
        query.among("status", status_in)
        query.contains("worker_id", worker_id_contains)
        query.sort(sort_by, sort_order, _WORKER_SORT)
        return await self._page(query, rows.worker, filter_logic, sort_order, limit, offset)

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        found = await self._fetch(f"SELECT {rows.WORKER} FROM workers WHERE worker_id = ?1", worker_id)
        return rows.worker(found[0]) if found else None

    # The store itself

    async def statistics(self) -> Statistics:
        async def body(transaction: Transaction) -> Statistics:
            async def count(table: str) -> int:
                return (await transaction.fetch(f"SELECT count(*) FROM {table}"))[0][0]

            async def by_status(table: str) -> dict[str, int]:
                found = await transaction.fetch(f"SELECT status, count(*) FROM {table} GROUP BY status")
                return {row[0]: row[1] for row in found}

            return Statistics(
                rollouts=await by_status("rollouts"),
                attempts=await count("attempts"),
                spans=await count("spans"),
                resources=await count("resources"),
                workers=await by_status("workers"),
                queue_depth=await count("rollouts WHERE queue_position IS NOT NULL"),
            )

        return await self._database.read(body)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            durable=self._database.durable, thread_safe=True, async_safe=True, zero_copy=True, otlp_traces=False
        )

    def release_waiters(self) -> None:
        """Let every long poll end now, with what it has; those who wait ask again, elsewhere or later."""
        self._database.signals.close()

    async def close(self) -> None:
        await self._database.close()

    async def give_up_overdue(self) -> int:
        """End the attempts whose deadline has passed; how many they were. What `Timers` runs."""
        lease = self._clock.lease()
        if not await self._fetch("SELECT 1 FROM attempts WHERE deadline < ?1 LIMIT 1", lease):
            return await self._forget_silent_workers(lease)
        return await self._database.write(self._give_up)

    async def tidy(self) -> None:
        """Drop what is kept only for a while: answers that nobody will ask for again."""
        await self._database.write(lambda transaction: forget_old(transaction, self._clock.now()))

    # Helpers

    def _moves(self, transaction: Transaction) -> Moves:
        return Moves(transaction, self._database.dialect, self._clock.now(), self._clock.lease())

    async def _write(self, body: Body[T]) -> T:
        question = asked.get()
        if question is None:
            return await self._database.write(body)
        result = await self._database.write(once(question, body, self._clock.now()))
        if isinstance(result, AlreadyAnswered):
            raise result
        return result

    async def _fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        async def body(transaction: Transaction) -> Sequence[Row]:
            return await transaction.fetch(sql, *values)

        return await self._database.read(body)

    async def _page(
        self,
        query: Query,
        noun: Callable[[Row], T],
        logic: FilterLogic,
        order: SortOrder,
        limit: int,
        offset: int,
    ) -> PaginatedResult[T]:
        check_page(limit, offset, logic, order)

        async def body(transaction: Transaction) -> tuple[Sequence[Row], int]:
            return await query.page(transaction, logic=logic, limit=limit, offset=offset)

        found, total = await self._database.read(body)
        return PaginatedResult[Any].model_construct(
            items=[noun(row) for row in found], limit=limit, offset=offset, total=total
        )

    async def _insert(self, transaction: Transaction, request: _Request) -> Rollout:
        resources_id, version = (
            await _latest(transaction)
            if request.resources_id is None
            else await _version(transaction, request.resources_id)
        )
        rollout_id = rows.new_id("ro", 12)
        now = self._clock.now()
        while not await transaction.fetch(
            "INSERT INTO rollouts (rollout_id, input, start_time, mode, resources_id, resources_version, status, "
            "config, metadata, attempts) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'queuing', ?7, ?8, 0) "
            "ON CONFLICT (rollout_id) DO NOTHING RETURNING rollout_id",
            rollout_id,
            request.input_json,
            now,
            request.mode,
            resources_id,
            version,
            request.config_json,
            request.metadata_json,
        ):
            rollout_id = rows.new_id("ro", 12)  # 48 random bits meet now and then among millions
        return rows.rollout(
            (
                rollout_id,
                request.input_json,
                now,
                None,
                request.mode,
                resources_id,
                version,
                "queuing",
                request.config_json,
                request.metadata_json,
            )
        )

    # Claiming

    async def _claim_or_wait(self, claim: Body[T], wait: float) -> T:
        """Claim now, or when word comes that there is something, until `wait` seconds have passed."""
        if wait <= 0:
            return await self._claim_safely(claim)
        deadline = time.monotonic() + wait
        with self._database.signals.listen(QUEUE) as waiter:
            while True:
                claimed = await self._claim_safely(claim)
                left = deadline - time.monotonic()
                if claimed or left <= 0 or self._database.signals.closed:
                    return claimed
                await waiter.wait(left)

    async def _claim_safely(self, claim: Body[T]) -> T:
        """A claim whose caller is cancelled meanwhile goes back to where it was in the queue."""
        claiming = asyncio.ensure_future(self._write(claim))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claimed = await _in_spite_of_cancellation(claiming)
            if claimed:
                await _in_spite_of_cancellation(asyncio.ensure_future(self._give_back(claimed)))
            raise

    async def _claim(self, transaction: Transaction, limit: int, worker_id: str | None) -> list[AttemptedRollout]:
        moves = self._moves(transaction)
        queued = await moves.next_queued(limit)
        if not queued and worker_id is not None:
            await transaction.execute(
                "INSERT INTO workers (worker_id, status, last_dequeue_time) VALUES (?1, 'idle', ?2) "
                "ON CONFLICT (worker_id) DO NOTHING",
                worker_id,
                self._clock.now(),
            )
        return [await moves.begin(row, row[-1], worker_id) for row in queued]

    async def _give_back(self, claimed: Any) -> None:
        rollouts = cast("list[AttemptedRollout]", claimed if isinstance(claimed, list) else [claimed])
        question = asked.get()

        async def body(transaction: Transaction) -> None:
            if question is not None:
                await forget(transaction, question.key)
            for rollout in rollouts:
                await _undo_claim(transaction, rollout)

        await self._database.write(body)

    # Rollouts by hand

    async def _set_by_hand(self, moves: Moves, before: AnyRollout, status: RolloutStatus) -> None:
        attempt = before.attempt.status if isinstance(before, AttemptedRollout) else None
        following = lifecycle.set_by_hand(before.rollout_id, before.status, attempt, status)
        if following.attempt != attempt and following.attempt in lifecycle.ENDED:
            await moves.end_live_attempt(before.rollout_id, following.attempt, f"the rollout was set to {status}")
        if following.rollout == before.status:
            return
        if following.rollout in lifecycle.FINAL:
            await moves.end_rollout(before.rollout_id, following.rollout)
        elif following.rollout in lifecycle.QUEUED:
            await moves.enqueue(before.rollout_id, following.rollout)
        else:
            await moves.sign_of_life(await moves.attempt_row(before.rollout_id, LATEST))

    async def _renew_deadline(self, transaction: Transaction, rollout_id: str, attempt_id: str) -> None:
        row = await self._moves(transaction).attempt_row(rollout_id, attempt_id)
        due = lifecycle.deadlines(row.config, row.lease_start, row.lease_seen).next
        await transaction.execute(
            "UPDATE attempts SET deadline = ?2 WHERE ordinal = ?1 AND deadline IS NOT NULL", row.ordinal, due
        )

    async def _rollouts(self, ids: Sequence[str]) -> list[AnyRollout]:
        if not ids:
            return []
        condition, values = any_of(ids, 1)
        found = await self._fetch(
            f"SELECT {rows.ROLLOUT_AND_ATTEMPT} FROM {rows.ROLLOUTS} WHERE r.rollout_id {condition}", *values
        )
        return [rows.any_rollout(row) for row in found]

    async def _unfinished(self, ids: Sequence[str]) -> set[str]:
        """Those that have not ended. Raises `NotFound` for those that are not there."""
        if not ids:
            return set()
        condition, values = any_of(ids, 1)
        found = await self._fetch(f"SELECT rollout_id, status FROM rollouts WHERE rollout_id {condition}", *values)
        known = {row[0] for row in found}
        for rollout_id in ids:
            if rollout_id not in known:
                raise NotFound(f"no rollout {rollout_id} in this store", field="rollout_ids")
        return {row[0] for row in found if row[1] not in lifecycle.FINAL}

    # Resources

    async def _store_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        valid, text = rows.resources_json(resources)

        async def body(transaction: Transaction) -> ResourcesUpdate:
            known = await transaction.fetch(
                "SELECT version, create_time FROM resources WHERE resources_id = ?1 ORDER BY version DESC LIMIT 1",
                resources_id,
            )
            version, created = (known[0][0] + 1, known[0][1]) if known else (1, self._clock.now())
            update = ResourcesUpdate.model_construct(
                resources_id=resources_id,
                create_time=created,
                update_time=self._clock.now(),
                version=version,
                resources=valid,
            )
            await transaction.execute(
                "INSERT INTO resources (resources_id, version, create_time, update_time, resources) "
                "VALUES (?1, ?2, ?3, ?4, ?5)",
                resources_id,
                version,
                update.create_time,
                update.update_time,
                text,
            )
            return update

        return await self._write(body)

    async def _resources(self, which: str, *values: Any) -> ResourcesUpdate | None:
        found = await self._fetch(f"SELECT {rows.RESOURCES} FROM resources {which} LIMIT 1", *values)
        return rows.resources_update(found[0]) if found else None

    # Workers and deadlines

    async def _note_heartbeat(self, transaction: Transaction, worker_id: str, stats: bytes | None) -> Worker:
        holds = await _held_by(transaction, worker_id)
        found = await transaction.fetch(
            "INSERT INTO workers (worker_id, status, heartbeat_stats, last_heartbeat_time, deadline) "
            "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (worker_id) DO UPDATE SET status = excluded.status, "
            "heartbeat_stats = coalesce(excluded.heartbeat_stats, workers.heartbeat_stats), "
            "last_heartbeat_time = excluded.last_heartbeat_time, deadline = excluded.deadline "
            f"RETURNING {rows.WORKER}",
            worker_id,
            "busy" if holds else "idle",
            stats,
            self._clock.now(),
            self._clock.lease() + WORKER_SILENCE_SECONDS,
        )
        return rows.worker(found[0])

    async def _give_up(self, transaction: Transaction) -> int:
        moves = self._moves(transaction)
        overdue = await transaction.fetch(
            "SELECT rollout_id, attempt_id FROM attempts WHERE deadline < ?1 ORDER BY deadline LIMIT ?2",
            moves.lease,
            GIVEN_UP_AT_ONCE,
        )
        for rollout_id, attempt_id in overdue:
            row = await moves.attempt_row(rollout_id, attempt_id)
            due = lifecycle.deadlines(row.config, row.lease_start, row.lease_seen)
            status = lifecycle.missed(due, moves.lease)
            if status is None or row.standing.attempt not in lifecycle.LIVE:
                continue
            following = lifecycle.report(row.standing, status)
            await moves.follow(row, following, reason=lifecycle.why(status, row.config))
        return len(overdue)

    async def _forget_silent_workers(self, lease: float) -> int:
        if await self._fetch("SELECT 1 FROM workers WHERE deadline < ?1 LIMIT 1", lease):
            await self._database.write(
                lambda transaction: transaction.execute(
                    "UPDATE workers SET status = 'unknown', deadline = NULL WHERE deadline < ?1", lease
                )
            )
        return 0


class _Request:
    """A rollout to be made, as the columns it will fill."""

    def __init__(
        self,
        input: Any,
        mode: RolloutMode | None,
        resources_id: str | None,
        config: RolloutConfig | None,
        metadata: dict[str, Any] | None,
    ) -> None:
        if mode not in (None, "train", "val", "test"):
            raise InvalidInput(f"mode is 'train', 'val', 'test' or None, not {mode!r}", field="mode")
        self.input_json = payload.dumps(input, field="input")
        self.mode = mode
        self.resources_id = resources_id
        self.config_json = _NO_CONFIG if config is None else rows.config_json(config)
        self.metadata_json = payload.dumps(metadata or {}, field="metadata")


_NO_CONFIG = b"{}"


def _check_worker(worker_id: str | None) -> None:
    if worker_id is not None:
        payload.check_id(worker_id, "worker_id")


def _payload(row: Row) -> bytes:
    return row[0]


async def _latest(transaction: Transaction) -> tuple[str | None, int | None]:
    found = await transaction.fetch("SELECT resources_id, version FROM resources ORDER BY ordinal DESC LIMIT 1")
    return (found[0][0], found[0][1]) if found else (None, None)


async def _version(transaction: Transaction, resources_id: str | None) -> tuple[str | None, int | None]:
    if resources_id is None:
        return None, None
    found = await transaction.fetch(
        "SELECT version FROM resources WHERE resources_id = ?1 ORDER BY version DESC LIMIT 1", resources_id
    )
    if not found:
        raise NotFound(f"no resources {resources_id} in this store", field="resources_id")
    return resources_id, found[0][0]


def _by_attempt(spans: Sequence[EncodedSpan]) -> dict[tuple[str, str], list[tuple[int, EncodedSpan]]]:
    batches: dict[tuple[str, str], list[tuple[int, EncodedSpan]]] = {}
    for index, span in enumerate(spans):
        batches.setdefault((span.rollout_id, span.attempt_id), []).append((index, span))
    return batches


async def _insert_spans(moves: Moves, row: AttemptRow, batch: list[tuple[int, EncodedSpan]]) -> dict[int, int | None]:
    """Number and store an attempt's spans; the number of each by its place, None for those that were there."""
    standing = row.standing
    condition, ids = any_of([span.span_id for _, span in batch], 3)
    known = {
        found[0]
        for found in await moves.transaction.fetch(
            f"SELECT span_id FROM spans WHERE rollout_id = ?1 AND attempt_id = ?2 AND span_id {condition}",
            standing.rollout_id,
            standing.attempt_id,
            *ids,
        )
    }
    late = lifecycle.sign_of_life(standing) is None
    numbers: dict[int, int | None] = {}
    new: list[tuple[Any, ...]] = []
    for index, span in batch:
        if span.span_id in known:
            numbers[index] = None
            continue
        known.add(span.span_id)
        number = numbers[index] = span.sequence_id or row.last_sequence_id + 1
        row.last_sequence_id = max(row.last_sequence_id, number)
        new.append(_span_row(span, standing.attempt_id, number, late))
    await moves.transaction.execute_many(_INSERT_SPAN, new)
    if not await moves.sign_of_life(row):
        await moves.transaction.execute(
            "UPDATE attempts SET last_sequence_id = ?2 WHERE ordinal = ?1", row.ordinal, row.last_sequence_id
        )
    return numbers


_INSERT_SPAN = (
    "INSERT INTO spans (rollout_id, attempt_id, sequence_id, trace_id, span_id, parent_id, name, start_time, end_time, "
    "payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
)


def _span_row(span: EncodedSpan, attempt_id: str, number: int, late: bool) -> tuple[Any, ...]:
    span.sequence_id, span.attempt_id = number, attempt_id
    if late:
        span.mark_late()
    return (
        span.rollout_id,
        attempt_id,
        number,
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.name,
        span.start_time,
        span.end_time,
        span.json(),
    )


async def _held_by(transaction: Transaction, worker_id: str) -> list[AttemptRef]:
    found = await transaction.fetch(
        "SELECT rollout_id, attempt_id FROM attempts WHERE worker_id = ?1 AND deadline IS NOT NULL", worker_id
    )
    return [AttemptRef(rollout_id=row[0], attempt_id=row[1]) for row in found]


async def _is_alive(moves: Moves, ref: AttemptRef) -> bool:
    try:
        return await moves.sign_of_life(await moves.attempt_row(ref.rollout_id, ref.attempt_id))
    except NotFound:
        return False


async def _undo_claim(transaction: Transaction, rollout: AttemptedRollout) -> None:
    """Unless something has happened to it since: the attempt was never made, the rollout is first in the queue."""
    untouched = await transaction.fetch(
        "DELETE FROM attempts WHERE rollout_id = ?1 AND attempt_id = ?2 AND status = 'preparing' RETURNING sequence_id",
        rollout.rollout_id,
        rollout.attempt.attempt_id,
    )
    if not untouched:
        return
    earlier = await transaction.fetch(
        "SELECT attempt_id, sequence_id FROM attempts WHERE rollout_id = ?1 ORDER BY sequence_id DESC LIMIT 1",
        rollout.rollout_id,
    )
    attempt_id, attempts = earlier[0] if earlier else (None, 0)
    await transaction.execute(
        "UPDATE rollouts SET status = ?2, attempt_id = ?3, attempts = ?4, queue_position = "
        "(SELECT coalesce(min(queue_position), 1) - 1 FROM rollouts WHERE queue_position IS NOT NULL) "
        "WHERE rollout_id = ?1",
        rollout.rollout_id,
        "requeuing" if earlier else "queuing",
        attempt_id,
        attempts,
    )
    transaction.announce(QUEUE, 1)


async def _in_spite_of_cancellation(work: asyncio.Future[T] | Awaitable[T]) -> T | None:
    """Finish `work` although the caller is being cancelled; None when it failed."""
    future = asyncio.ensure_future(work)
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    return None if future.cancelled() or future.exception() else future.result()
