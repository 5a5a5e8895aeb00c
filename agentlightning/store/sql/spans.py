"""Operations on spans, and the queries for the OTLP receiver and exporter.

Spans are stored as JSON text and without duplicates. A span that arrives without a sequence number gets the next number
within its attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from ...errors import Unauthorized
from ...types import PaginatedResult, Span
from .. import encoded_span, lifecycle
from ..db.database import ConflictKey, Row, Transaction
from ..encoded_span import EncodedSpan, SpanAck, primary_reward, truncate_span
from .base import SMALL_READ_ROWS, SqlBase
from .query import Query, Sort, sorts
from .rows import AttemptRow
from .transitions import LATEST, TransitionWriter

_SPAN_SORT = {
    **sorts(
        texts=("attempt_id", "parent_id", "rollout_id", "span_id", "trace_id"),
        floats=("end_time", "start_time"),
        integers=("sequence_id",),
    ),
    # Sort by the beginning of the name, because a name can have any length and the sort value is copied into cursors.
    "name": Sort("substr(name, 1, 1000)", str),
}
_THREAD_THRESHOLD = 64 * 1024
"""Size in bytes from which spans are searched for API keys in another thread, so that they do not delay requests."""
_SPAN_COLUMNS = 9
_INSERT_SPAN = (
    "INSERT INTO spans (rollout_id, attempt_id, trace_id, span_id, name, sequence_id, parent_id, start_time, end_time, "
    "payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
)
"""SQL to insert a span.

The parameters are the first `_SPAN_COLUMNS` fields of `EncodedSpan`, in the order of their definition, followed by the
whole span as JSON text.
"""

AttemptIds = tuple[str, str]
"""A rollout id and an attempt id."""


class SpanWatermark(NamedTuple):
    """The ordinal of the newest span that a transaction can see, and the number of that transaction.

    When the watermark is read, other transactions may have inserted spans with lower ordinals but not committed them
    yet. Once all transactions with numbers below `transaction` have finished, no further spans with ordinals up to
    `ordinal` can appear.
    """

    ordinal: int
    transaction: int


class Spans(SqlBase):
    """Operations on spans."""

    async def add_span(self, span: Span) -> Span | None:
        stored = await self.add_many_spans([span])
        return stored[0] if stored else None

    async def add_many_spans(self, spans: Sequence[Span]) -> list[Span]:
        acks = await self.add_encoded_spans(encoded_span.encode(spans))
        return [ack.apply_to(span) for span, ack in zip(spans, acks, strict=True) if ack]

    async def add_encoded_spans(self, spans: Sequence[EncodedSpan]) -> list[SpanAck | None]:
        """Store spans. Return one entry for each span: an acknowledgement, or None if the span is a duplicate.

        API keys are replaced with `[redacted]`. This changes the members of `spans` in place.
        """
        text = encoded_span.spans_to_json(spans)
        if len(text) < _THREAD_THRESHOLD:
            encoded_span.redact_keys(spans, text)
        else:
            await asyncio.to_thread(encoded_span.redact_keys, spans, text)

        async def body(transaction: Transaction) -> list[SpanAck | None]:
            transitions = self._transitions(transaction)
            acks: dict[int, SpanAck | None] = {}
            for (rollout_id, attempt_id), batch in _by_attempt(spans).items():
                row = await transitions.attempt_row(rollout_id, attempt_id)
                acks |= await _insert_spans(transitions, row, batch)
            return [acks[index] for index in range(len(spans))]

        return await self._write(body, _conflict_key(spans)) if spans else []

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        async def body(transaction: Transaction) -> int:
            return await _reserve_number(self._transitions(transaction), rollout_id, attempt_id)

        return await self._write(body, ConflictKey("attempts", rollout_id))

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> list[int]:
        async def body(transaction: Transaction) -> list[int]:
            transitions = self._transitions(transaction)
            return [await _reserve_number(transitions, *attempt) for attempt in rollout_attempt_ids]

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
            cursor=page.cursor,
        )

    async def query_encoded_spans(
        self,
        rollout_id: str,
        attempt_id: str | None = None,
        *,
        sort_by: str | None = "sequence_id",
        cut_at: int | None = None,
        **options: Any,
    ) -> PaginatedResult[bytes]:
        """Like `query_spans`, but return each span as JSON text.

        In a span of more than `cut_at` bytes, long values are truncated.
        """
        filters = {name: options.pop(name) for name in _FILTERS if name in options}
        options = {"sort_by": sort_by, **options}
        query = Query(self._database, "payload", "spans", _SPAN_SORT, options, size="length(payload)")
        query.always("rollout_id = {}", rollout_id)
        if attempt_id == LATEST:
            query.always("attempt_id = (SELECT attempt_id FROM rollouts WHERE rollout_id = {})", rollout_id)
        elif attempt_id is not None:
            query.always("attempt_id = {}", attempt_id)
        for name, value in filters.items():
            add_filter = query.contains if name.endswith("_contains") else query.equals
            add_filter(name.removesuffix("_contains"), value)
        return await query.page(partial(_payload, cut_at=cut_at), short=await self._has_few_spans(rollout_id))

    async def _has_few_spans(self, rollout_id: str) -> bool:
        # Cap the numbers before adding them, because the sum of numbers that clients chose may exceed 64 bits.
        few = f"CASE WHEN last_sequence_id > {SMALL_READ_ROWS} THEN {SMALL_READ_ROWS + 1} ELSE last_sequence_id END"
        sql = f"SELECT coalesce(sum({few}), 0) FROM attempts WHERE rollout_id = ?1"
        found = await self._database.fetch(sql, rollout_id, short=True)
        return found[0][0] <= SMALL_READ_ROWS

    # OTLP

    async def check_attempt_token(self, rollout_id: str, attempt_id: str, seconds: float) -> None:
        """Raise `Unauthorized` if the attempt was deleted or ended more than `seconds` ago."""
        sql = "SELECT end_time FROM attempts WHERE rollout_id = ?1 AND attempt_id = ?2"
        found = await self._database.fetch(sql, rollout_id, attempt_id, short=True)
        if not found:
            raise Unauthorized(f"this token is no longer valid: rollout {rollout_id} has been deleted from the store")
        end_time: float | None = found[0][0]
        if end_time is not None and self._clock.now() - end_time > seconds:
            raise Unauthorized(
                f"this token is no longer valid: attempt {attempt_id} of rollout {rollout_id} ended more than "
                f"{seconds:g} s ago (Limits.attempt_token_seconds)"
            )

    async def existing_attempts(self, refs: Collection[AttemptIds]) -> dict[AttemptIds, bool]:
        """Map each member of `refs` that identifies an existing attempt to True if that attempt is live."""
        if not refs:
            return {}
        condition, ids = self._database.dialect.any_of(sorted({rollout_id for rollout_id, _ in refs}), 1)
        found = await self._database.fetch(
            f"SELECT rollout_id, attempt_id, deadline IS NOT NULL FROM attempts WHERE rollout_id {condition}", *ids
        )
        return {(row[0], row[1]): bool(row[2]) for row in found if (row[0], row[1]) in refs}

    async def live_attempts_by_trace(self, trace_ids: Collection[str]) -> dict[str, set[AttemptIds]]:
        """Map each trace id to the live attempts that have spans in it. Traces without live attempts are left out."""
        if not trace_ids:
            return {}
        condition, ids = self._database.dialect.any_of(sorted(trace_ids), 1)
        # Search only the spans of live attempts, which are few. There is no index on trace ids, because it would slow
        # down every insert.
        found = await self._database.fetch(
            "SELECT DISTINCT spans.trace_id, spans.rollout_id, spans.attempt_id FROM attempts JOIN spans ON "
            "spans.rollout_id = attempts.rollout_id AND spans.attempt_id = attempts.attempt_id "
            f"WHERE attempts.deadline IS NOT NULL AND spans.trace_id {condition}",
            *ids,
        )
        attempts: dict[str, set[AttemptIds]] = {}
        for trace_id, rollout_id, attempt_id in found:
            attempts.setdefault(trace_id, set()).add((rollout_id, attempt_id))
        return attempts

    async def register_export_target(self, target: str, *, past: bool) -> None:
        """Add an OTLP export target, unless it has already been added.

        If `past` is true, the new target also receives the spans that have already been stored. Otherwise, it receives
        only spans that are stored from now on.
        """
        first = "0" if past else "(SELECT coalesce(max(ordinal), 0) FROM spans)"
        sql = f"INSERT INTO exports (target, ordinal) VALUES (?1, {first}) ON CONFLICT (target) DO NOTHING"
        await self._database.write(lambda transaction: transaction.execute(sql, target))

    async def last_exported_ordinal(self, target: str) -> int:
        """Return the position of the export to a target. Only spans with higher ordinals still have to be sent."""
        return (await self._database.fetch("SELECT ordinal FROM exports WHERE target = ?1", target, short=True))[0][0]

    async def record_exported(self, target: str, ordinal: int, payload: bytes) -> int:
        """Save `ordinal` as the position of the export to a target, and return the saved position.

        `payload` is the JSON text of the span with this ordinal. If that span has been deleted in the meantime, the
        position is not changed, because a new span may reuse the ordinal.
        """

        async def body(transaction: Transaction) -> int:
            if await transaction.fetch("SELECT 1 FROM spans WHERE ordinal = ?1 AND payload = ?2", ordinal, payload):
                await transaction.execute("UPDATE exports SET ordinal = ?2 WHERE target = ?1", target, ordinal)
            return (await transaction.fetch("SELECT ordinal FROM exports WHERE target = ?1", target))[0][0]

        return await self._database.write(body)

    async def span_watermark(self) -> SpanWatermark:
        """Return the watermark for the newest span that is currently visible."""
        number = self._database.dialect.transaction_number
        [row] = await self._database.fetch(f"SELECT coalesce(max(ordinal), 0), {number} FROM spans", short=True)
        return SpanWatermark(row[0], row[1])

    async def is_settled(self, watermark: SpanWatermark) -> bool:
        """Return True if no further spans with ordinals up to the watermark can appear (see `SpanWatermark`)."""
        [row] = await self._database.fetch(f"SELECT {self._database.dialect.oldest_transaction}", short=True)
        return row[0] >= watermark.transaction

    async def spans_between(self, after: int, up_to: int, most: int, most_bytes: int) -> list[tuple[int, bytes]]:
        """Return spans with ordinals greater than `after` and at most `up_to`, each as its ordinal and JSON text.

        Return the oldest of these spans: at most `most` spans with a total size of at most `most_bytes` bytes. If the
        first span alone is larger than that, return only this span.
        """
        found = await self._database.fetch(_SPANS_BETWEEN, after, up_to, most, most_bytes)
        return [(row[0], row[1]) for row in found]


_SPANS_BETWEEN = (
    "SELECT s.ordinal, s.payload FROM (SELECT ordinal, size, sum(size) OVER (ORDER BY ordinal) AS total FROM "
    "(SELECT ordinal, length(payload) AS size FROM spans WHERE ordinal > ?1 AND ordinal <= ?2 "
    "ORDER BY ordinal LIMIT ?3) AS sized) AS summed JOIN spans s ON s.ordinal = summed.ordinal "
    "WHERE total <= ?4 OR total = size ORDER BY s.ordinal"
)
_FILTERS = tuple(column + form for column in ("trace_id", "span_id", "parent_id", "name") for form in ("", "_contains"))


def _payload(row: Row, cut_at: int | None) -> bytes:
    return row[0] if cut_at is None else truncate_span(row[0], cut_at)


async def _reserve_number(transitions: TransitionWriter, rollout_id: str, attempt_id: str) -> int:
    row = await transitions.attempt_row(rollout_id, attempt_id)
    found = await transitions.transaction.fetch(
        "UPDATE attempts SET last_sequence_id = last_sequence_id + 1 WHERE ordinal = ?1 RETURNING last_sequence_id",
        row.columns["ordinal"],
    )
    return found[0][0]


def _conflict_key(spans: Sequence[EncodedSpan]) -> ConflictKey | None:
    first, *others = {span.rollout_id for span in spans}
    return None if others else ConflictKey("attempts", first)


def _by_attempt(spans: Sequence[EncodedSpan]) -> dict[tuple[str, str], list[tuple[int, EncodedSpan]]]:
    batches: dict[tuple[str, str], list[tuple[int, EncodedSpan]]] = {}
    for index, span in enumerate(spans):
        batches.setdefault((span.rollout_id, span.attempt_id), []).append((index, span))
    return batches


async def _stored_ids(transitions: TransitionWriter, row: AttemptRow, batch: list[tuple[int, EncodedSpan]]) -> set[str]:
    """Return the ids of those spans in the batch that are already stored for the attempt."""
    if row.columns["last_sequence_id"] == 0:  # the attempt has no spans yet
        return set()
    condition, ids = transitions.dialect.any_of([span.span_id for _, span in batch], 3)
    found = await transitions.transaction.fetch(
        f"SELECT span_id FROM spans WHERE rollout_id = ?1 AND attempt_id = ?2 AND span_id {condition}",
        row.state.rollout_id,
        row.state.attempt_id,
        *ids,
    )
    return {each[0] for each in found}


async def _insert_spans(
    transitions: TransitionWriter, row: AttemptRow, batch: list[tuple[int, EncodedSpan]]
) -> dict[int, SpanAck | None]:
    """Number and store spans of one attempt. `batch` contains each span with its index in the request.

    Return an acknowledgement for each index, or None if the span is a duplicate. Spans that arrive after the end of the
    attempt are marked as late, and change neither the attempt's status nor the reward. Raises `FinalStatus` if the
    attempt would have too many late spans.
    """
    state, transaction = row.state, transitions.transaction
    stored = await _stored_ids(transitions, row, batch)
    heartbeat = lifecycle.heartbeat(state)
    late = heartbeat is None
    last: int = row.columns["last_sequence_id"]
    acks: dict[int, SpanAck | None] = {}
    new: list[tuple[Any, ...]] = []
    reward: float | None = None
    for index, span in batch:
        if span.span_id in stored:
            acks[index] = None
            transaction.count("duplicate_spans")
            continue
        stored.add(span.span_id)
        number = span.sequence_id or last + 1
        acks[index] = SpanAck(number, late)
        last = max(last, number)
        if not late and (found := primary_reward(span)) is not None:
            reward = found
        new.append(_span_row(span, state.attempt_id, number, late))
    late_spans: int = row.columns["late_spans"] + (len(new) if late else 0)
    lifecycle.check_late_spans(state, late_spans)
    await transaction.execute_many(_INSERT_SPAN, new)
    transaction.notify(("spans", state.rollout_id))
    if reward is not None:
        await transitions.record_reward(state, reward)
    if heartbeat is not None:
        await transitions.apply_heartbeat(row, heartbeat, last_sequence_id=last)
    else:
        transaction.count("late_spans", len(new))
        await transitions.update_attempt(row, last_sequence_id=last, late_spans=late_spans)
    return acks


def _span_row(span: EncodedSpan, attempt_id: str, number: int, late: bool) -> tuple[Any, ...]:
    # Change a copy, because the transaction body may run again with the same spans.
    span = msgspec.structs.replace(span, sequence_id=number, attempt_id=attempt_id)
    if late:
        span.mark_late()
    return (*msgspec.structs.astuple(span)[:_SPAN_COLUMNS], span.json())
