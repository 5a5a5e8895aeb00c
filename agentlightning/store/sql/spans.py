"""Spans: numbered as they arrive, stored once, served as the bytes that came."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from ...redaction import without_keys_in
from ...types import PaginatedResult, Span
from .. import encoded_span, lifecycle
from ..contract import FilterLogic, SortOrder
from ..db.database import Place, Row, Transaction
from ..db.signals import news
from ..encoded_span import EncodedSpan, Kept
from ..partial_decode import cut_span, reward_in
from .base import FEW, SqlBase
from .query import Query, Sort, sorts
from .rows import AttemptRow
from .transitions import LATEST, Moves

_SPAN_SORT = {
    **sorts(
        texts=("attempt_id", "parent_id", "rollout_id", "span_id", "trace_id"),
        floats=("end_time", "start_time"),
        integers=("sequence_id",),
    ),
    "name": Sort("substr(name, 1, 1000)", str),  # it stands in cursors, and may be of any length
}
_INSERT_SPAN = (
    "INSERT INTO spans (rollout_id, attempt_id, sequence_id, trace_id, span_id, parent_id, name, start_time, end_time, "
    "payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
)


class Spans(SqlBase):
    """What was seen of the attempts."""

    async def add_span(self, span: Span) -> Span | None:
        stored = await self.add_many_spans([span])
        return stored[0] if stored else None

    async def add_many_spans(self, spans: Sequence[Span]) -> list[Span]:
        kept = await self.add_encoded_spans(encoded_span.encode(spans))
        return [as_stored.shown_in(span) for span, as_stored in zip(spans, kept, strict=True) if as_stored]

    async def add_encoded_spans(self, spans: Sequence[EncodedSpan]) -> list[Kept | None]:
        """Store spans; what was decided about each, or None where it was there already."""

        async def body(transaction: Transaction) -> list[Kept | None]:
            return await _insert(self._moves(transaction), spans)

        return await self._write(body, _place(spans)) if spans else []

    async def add_encoded_span(self, span: EncodedSpan) -> Kept | None:
        """The same of one."""

        async def body(transaction: Transaction) -> Kept | None:
            return (await _insert(self._moves(transaction), [span]))[0]

        return await self._write(body, _place([span]))

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        async def body(transaction: Transaction) -> int:
            return await _next_number(self._moves(transaction), rollout_id, attempt_id)

        return await self._write(body, Place.attempts_of(rollout_id))

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> list[int]:
        async def body(transaction: Transaction) -> list[int]:
            moves = self._moves(transaction)
            return [await _next_number(moves, *attempt) for attempt in rollout_attempt_ids]

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
        cut_at: int | None = None,
        cursor: str | None = None,
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
        brief = await self._has_few_spans(rollout_id)
        noun = partial(_payload, cut_at=cut_at)
        return await self._page(query, noun, filter_logic, sort_order, limit, offset, cursor, brief=brief)

    async def _has_few_spans(self, rollout_id: str) -> bool:
        found = await self._fetch(
            "SELECT sum(last_sequence_id) FROM attempts WHERE rollout_id = ?1", rollout_id, brief=True
        )
        return (found[0][0] or 0) <= FEW


def _payload(row: Row, cut_at: int | None) -> bytes:
    return row[0] if cut_at is None else cut_span(row[0], cut_at)


async def _next_number(moves: Moves, rollout_id: str, attempt_id: str) -> int:
    row = await moves.attempt_row(rollout_id, attempt_id)
    taken = await moves.transaction.fetch(
        "UPDATE attempts SET last_sequence_id = last_sequence_id + 1 WHERE ordinal = ?1 RETURNING last_sequence_id",
        row.ordinal,
    )
    return taken[0][0]


async def _insert(moves: Moves, spans: Sequence[EncodedSpan]) -> list[Kept | None]:
    kept: dict[int, Kept | None] = {}
    for (rollout_id, attempt_id), batch in _by_attempt(spans).items():
        row = await moves.attempt_row(rollout_id, attempt_id)
        kept |= await _insert_spans(moves, row, batch)
    return [kept[index] for index in range(len(spans))]


def _place(spans: Sequence[EncodedSpan]) -> Place | None:
    """Where spans go, if that is one place."""
    first, *others = {span.rollout_id for span in spans}
    return None if others else Place.attempts_of(first)


def _by_attempt(spans: Sequence[EncodedSpan]) -> dict[tuple[str, str], list[tuple[int, EncodedSpan]]]:
    batches: dict[tuple[str, str], list[tuple[int, EncodedSpan]]] = {}
    for index, span in enumerate(spans):
        batches.setdefault((span.rollout_id, span.attempt_id), []).append((index, span))
    return batches


async def _known(moves: Moves, row: AttemptRow, batch: list[tuple[int, EncodedSpan]]) -> set[str]:
    """Which of these span ids the attempt has already."""
    if row.last_sequence_id == 0:  # it has none
        return set()
    condition, ids = moves.dialect.any_of([span.span_id for _, span in batch], 3)
    found = await moves.transaction.fetch(
        f"SELECT span_id FROM spans WHERE rollout_id = ?1 AND attempt_id = ?2 AND span_id {condition}",
        row.standing.rollout_id,
        row.standing.attempt_id,
        *ids,
    )
    return {each[0] for each in found}


async def _insert_spans(moves: Moves, row: AttemptRow, batch: list[tuple[int, EncodedSpan]]) -> dict[int, Kept | None]:
    """Number and store an attempt's spans; what was decided of each by its place, None for those that were there."""
    standing = row.standing
    known = await _known(moves, row, batch)
    late = lifecycle.sign_of_life(standing) is None
    kept: dict[int, Kept | None] = {}
    new: list[tuple[Any, ...]] = []
    reward: float | None = None
    for index, span in batch:
        if span.span_id in known:
            kept[index] = None
            moves.transaction.count("duplicate_spans")
            continue
        known.add(span.span_id)
        number = span.sequence_id or row.last_sequence_id + 1
        kept[index] = Kept(number, late)
        row.last_sequence_id = max(row.last_sequence_id, number)
        reward = reward if (said := reward_in(span)) is None else said
        new.append(_span_row(span, standing.attempt_id, number, late))
    await moves.transaction.execute_many(_INSERT_SPAN, new)
    if late:
        moves.transaction.count("late_spans", len(new))
    if reward is not None:
        await moves.note_reward(standing, reward)
    moves.transaction.announce(news("spans", standing.rollout_id))
    if not await moves.sign_of_life(row):
        await moves.transaction.execute(
            "UPDATE attempts SET last_sequence_id = ?2 WHERE ordinal = ?1", row.ordinal, row.last_sequence_id
        )
    return kept


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
        without_keys_in(span.json()),
    )
