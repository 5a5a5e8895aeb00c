"""Spans: numbered in order of arrival, stored once, and returned as the bytes that were sent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from ...redaction import redact_bytes
from ...types import PaginatedResult, Span
from .. import encoded_span, lifecycle
from ..db.database import ConflictKey, Row, Transaction
from ..encoded_span import EncodedSpan, SpanAck
from ..partial_decode import primary_reward, truncate_span
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
    "name": Sort("substr(name, 1, 1000)", str),  # part of a cursor, and of any length
}
_INSERT_SPAN = (
    "INSERT INTO spans (rollout_id, attempt_id, sequence_id, trace_id, span_id, parent_id, name, start_time, end_time, "
    "payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
)


class Spans(SqlBase):
    """Operations on the spans of attempts."""

    async def add_span(self, span: Span) -> Span | None:
        stored = await self.add_many_spans([span])
        return stored[0] if stored else None

    async def add_many_spans(self, spans: Sequence[Span]) -> list[Span]:
        acks = await self.add_encoded_spans(encoded_span.encode(spans))
        return [ack.apply_to(span) for span, ack in zip(spans, acks, strict=True) if ack]

    async def add_encoded_spans(self, spans: Sequence[EncodedSpan]) -> list[SpanAck | None]:
        """Store spans and return an acknowledgement of each; None for a duplicate."""

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
        """`query_spans`, with each span as JSON text."""
        query = Query(self._database.dialect, "payload", "spans", order="ordinal")
        query.always("rollout_id = {}", rollout_id)
        if attempt_id == LATEST:
            query.always("attempt_id = (SELECT attempt_id FROM rollouts WHERE rollout_id = {})", rollout_id)
        elif attempt_id is not None:
            query.always("attempt_id = {}", attempt_id)
        for column in _FILTERED:
            query.equals(column, options.pop(column, None))
            query.contains(column, options.pop(f"{column}_contains", None))
        short = await self._has_few_spans(rollout_id)
        decode = partial(_payload, cut_at=cut_at)
        return await self._page(query, decode, _SPAN_SORT, sort_by=sort_by, short=short, **options)

    async def _has_few_spans(self, rollout_id: str) -> bool:
        found = await self._fetch(
            "SELECT sum(last_sequence_id) FROM attempts WHERE rollout_id = ?1", rollout_id, short=True
        )
        return (found[0][0] or 0) <= SMALL_READ_ROWS


_FILTERED = ("trace_id", "span_id", "parent_id", "name")


def _payload(row: Row, cut_at: int | None) -> bytes:
    return row[0] if cut_at is None else truncate_span(row[0], cut_at)


async def _reserve_number(transitions: TransitionWriter, rollout_id: str, attempt_id: str) -> int:
    row = await transitions.attempt_row(rollout_id, attempt_id)
    found = await transitions.transaction.fetch(
        "UPDATE attempts SET last_sequence_id = last_sequence_id + 1 WHERE ordinal = ?1 RETURNING last_sequence_id",
        row.ordinal,
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
    """Return the ids in the batch that the attempt has already stored."""
    if row.last_sequence_id == 0:  # it has no spans
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
    """Number and store the spans of one attempt; return the acknowledgements by index, None for duplicates."""
    state, transaction = row.state, transitions.transaction
    stored = await _stored_ids(transitions, row, batch)
    heartbeat = lifecycle.heartbeat(state)
    late = heartbeat is None
    acks: dict[int, SpanAck | None] = {}
    new: list[tuple[Any, ...]] = []
    reward: float | None = None
    for index, span in batch:
        if span.span_id in stored:
            acks[index] = None
            transaction.count("duplicate_spans")
            continue
        stored.add(span.span_id)
        number = span.sequence_id or row.last_sequence_id + 1
        acks[index] = SpanAck(number, late)
        row.last_sequence_id = max(row.last_sequence_id, number)
        reward = reward if (found := primary_reward(span)) is None else found
        new.append(_span_row(span, state.attempt_id, number, late))
    await transaction.execute_many(_INSERT_SPAN, new)
    if reward is not None:
        await transitions.record_reward(state, reward)
    transaction.notify(("spans", state.rollout_id))
    if heartbeat is not None:
        await transitions.apply_heartbeat(row, heartbeat)
    else:
        transaction.count("late_spans", len(new))
        await transaction.execute(
            "UPDATE attempts SET last_sequence_id = ?2 WHERE ordinal = ?1", row.ordinal, row.last_sequence_id
        )
    return acks


def _span_row(span: EncodedSpan, attempt_id: str, number: int, late: bool) -> tuple[Any, ...]:
    span = msgspec.structs.replace(span, sequence_id=number, attempt_id=attempt_id)  # the body may run again
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
        redact_bytes(span.json()),
    )
