"""Spans: stored once, in order of arrival, with their attempt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentlightning.errors import FinalStatus, NotFound
from agentlightning.store import LightningStore
from agentlightning.types import Event, Link, OtelResource, Span, SpanContext, TraceStatus

from .conftest import every_way
from .making import RETRYING, claimed, everything, found, numbered, soon, span, statuses


def full(of: Any, n: int = 1, **given: Any) -> Span:
    """Return a span with a value in every field."""
    fields: dict[str, Any] = {
        "parent_id": "ef" * 8,
        "status": TraceStatus(status_code="ERROR", description="it broke"),
        "attributes": {"text": "naïve 😀", "n": 2**63 - 1, "share": 0.1, "yes": True, "list": ["a"], "deep": {"k": []}},
        "events": [Event(name="exception", attributes={"k": 1}, timestamp=1.25)],
        "links": [Link(context=SpanContext(trace_id="ab" * 16, span_id="cd" * 8), attributes={"why": "retry"})],
        "start_time": 1.5,
        "end_time": 2.5,
        "context": SpanContext(trace_id=f"{1:032x}", span_id=f"{n:016x}", trace_state={"vendor": "1"}),
        "parent": SpanContext(trace_id=f"{1:032x}", span_id="ef" * 8, is_remote=True),
        "resource": OtelResource(attributes={"service.name": "tests"}, schema_url="https://schema"),
    }  # fmt: skip
    return span(of, n, **{**fields, **given})


@every_way
async def test_span_is_returned_unchanged_with_its_number(store: LightningStore) -> None:
    attempted = await claimed(store)

    stored = await store.add_span(full(attempted))

    assert stored == full(attempted, sequence_id=1)
    assert (await store.query_spans(attempted.rollout_id)).items == [stored]


async def test_empty_span_is_returned_unchanged(store: LightningStore) -> None:
    attempted = await claimed(store)

    assert await store.add_span(span(attempted, name="")) == span(attempted, name="", sequence_id=1)


async def test_batch_of_spans_is_stored_in_order(store: LightningStore) -> None:
    attempted = await claimed(store)
    spans = [full(attempted, n, name=f"step {n}") for n in range(20)]

    stored = await store.add_many_spans(spans)

    assert stored == [numbered(each, place) for place, each in enumerate(spans, 1)]
    assert (await store.query_spans(attempted.rollout_id)).items == stored


async def test_empty_batch_of_spans_is_accepted(store: LightningStore) -> None:
    assert await store.add_many_spans([]) == []


async def test_batch_may_contain_spans_of_several_attempts(store: LightningStore) -> None:
    first, second = await claimed(store, "first"), await claimed(store, "second")

    stored = await store.add_many_spans([span(first, 1), span(second, 1), span(first, 2), span(second, 2)])

    assert [each.sequence_id for each in stored] == [1, 1, 2, 2]
    assert (await store.query_spans(first.rollout_id)).items == [stored[0], stored[2]]
    assert (await store.query_spans(second.rollout_id)).items == [stored[1], stored[3]]


# Duplicates


async def test_duplicate_span_is_ignored(store: LightningStore) -> None:
    attempted = await claimed(store)
    stored = await store.add_span(span(attempted, attributes={"who": "first"}))

    assert await store.add_span(span(attempted, attributes={"who": "second"})) is None
    assert await store.add_many_spans([span(attempted, name="third")]) == []

    assert (await store.query_spans(attempted.rollout_id)).items == [stored]


async def test_batch_stores_only_new_spans(store: LightningStore) -> None:
    attempted = await claimed(store)
    await store.add_span(span(attempted, 1))

    stored = await store.add_many_spans(
        [span(attempted, 1, "old"), span(attempted, 2, "new"), span(attempted, 2, "twice"), span(attempted, 3, "new")]
    )

    assert [(each.span_id, each.name, each.sequence_id) for each in stored] == [
        (f"{2:016x}", "new", 2),
        (f"{3:016x}", "new", 3),
    ]
    assert [each.name for each in await store.query_spans(attempted.rollout_id)] == ["step", "new", "new"]


async def test_span_ids_are_unique_within_an_attempt_only(store: LightningStore) -> None:
    first = await claimed(store, config=RETRYING)
    await store.add_span(span(first, attributes={"attempt": 1}))
    await store.update_attempt(first.rollout_id, "latest", status="failed")
    second = await store.dequeue_rollout()
    assert second is not None

    assert await store.add_span(span(second, attributes={"attempt": 2})) is not None

    spans = (await store.query_spans(first.rollout_id)).items
    assert sorted(each.attributes["attempt"] for each in spans) == [1, 2]


# Order


async def test_spans_are_numbered_in_order_of_arrival(store: LightningStore) -> None:
    attempted = await claimed(store)
    for n, start_time in enumerate([300.0, None, 100.0, -5.0, 200.0]):
        await store.add_span(span(attempted, n, start_time=start_time))

    spans = await store.query_spans(attempted.rollout_id)

    assert [(each.sequence_id, each.start_time) for each in spans] == [
        (1, 300.0),
        (2, None),
        (3, 100.0),
        (4, -5.0),
        (5, 200.0),
    ]


async def test_explicit_number_is_kept_and_advances_the_counter(store: LightningStore) -> None:
    attempted = await claimed(store)

    for n, given in enumerate([0, 10, 0, 5, 0]):
        await store.add_span(span(attempted, n, sequence_id=given))

    spans = await store.query_spans(attempted.rollout_id)
    assert [(each.span_id[-1], each.sequence_id) for each in spans] == [
        ("0", 1),
        ("3", 5),
        ("1", 10),
        ("2", 11),
        ("4", 12),
    ]


async def test_reserved_numbers_increase_and_are_unique(store: LightningStore) -> None:
    attempted = await claimed(store)
    ids = attempted.rollout_id, attempted.attempt.attempt_id

    first = await store.get_next_span_sequence_id(*ids)
    two = await store.get_many_span_sequence_ids([ids, ids])
    stored = await store.add_span(span(attempted))
    last = await store.get_next_span_sequence_id(*ids)
    reserved = await store.add_span(span(attempted, 2, sequence_id=first))

    assert stored is not None
    assert reserved is not None
    assert [first, *two, stored.sequence_id, last, reserved.sequence_id] == [1, 2, 3, 4, 5, 1]


async def test_each_attempt_has_its_own_numbers(store: LightningStore) -> None:
    first, second = await claimed(store, "first"), await claimed(store, "second")
    pairs = [(each.rollout_id, each.attempt.attempt_id) for each in (first, second)]

    assert await store.get_many_span_sequence_ids([pairs[0], pairs[1], pairs[0], pairs[0], pairs[1]]) == [1, 1, 2, 3, 2]
    assert await store.get_many_span_sequence_ids([]) == []


async def test_number_of_an_unknown_attempt_raises_not_found(store: LightningStore) -> None:
    attempted = await claimed(store)
    known = attempted.rollout_id, attempted.attempt.attempt_id

    for unknown in [("ro-unknown", "at-unknown"), (attempted.rollout_id, "at-unknown")]:
        with pytest.raises(NotFound, match="unknown"):
            await store.get_next_span_sequence_id(*unknown)
        with pytest.raises(NotFound, match="unknown"):
            await store.get_many_span_sequence_ids([known, unknown])


# Attempts


async def test_span_of_an_unknown_attempt_raises_not_found(store: LightningStore) -> None:
    attempted, other = await claimed(store, "task"), await claimed(store, "other")
    before = await everything(store)

    for change in (
        {"rollout_id": "ro-unknown"},
        {"attempt_id": "at-unknown"},
        {"attempt_id": other.attempt.attempt_id},
    ):
        stray = span(attempted).model_copy(update=change)
        with pytest.raises(NotFound, match=next(iter(change.values()))):
            await store.add_span(stray)
        with pytest.raises(NotFound, match=next(iter(change.values()))):
            await store.add_many_spans([span(attempted, 7), stray])

    assert await everything(store) == before


async def test_spans_are_queried_by_attempt(store: LightningStore) -> None:
    first = await claimed(store, config=RETRYING)
    await store.add_many_spans([span(first, 1, "first"), span(first, 2, "first")])
    await store.update_attempt(first.rollout_id, "latest", status="failed")
    second = await store.dequeue_rollout()
    assert second is not None
    await store.add_span(span(second, 3, "second"))

    async def names(attempt_id: str | None) -> list[str]:
        return [each.name for each in await store.query_spans(first.rollout_id, attempt_id)]

    assert await names(first.attempt.attempt_id) == ["first", "first"]
    assert await names(second.attempt.attempt_id) == ["second"]
    assert await names("latest") == ["second"]
    assert sorted(await names(None)) == ["first", "first", "second"]
    assert await names("at-unknown") == []


async def test_unknown_rollout_has_no_spans(store: LightningStore) -> None:
    queued = await store.enqueue_rollout("task")

    for rollout_id in ("ro-unknown", queued.rollout_id):
        for attempt_id in (None, "latest", "at-unknown"):
            assert (await store.query_spans(rollout_id, attempt_id)).items == []


# Late spans


async def test_late_span_is_stored_and_marked(store: LightningStore) -> None:
    attempted = await claimed(store)
    await store.add_span(span(attempted, 1))
    await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")
    rollout = await found(store, attempted)

    late = await store.add_many_spans([span(attempted, 2, attributes={"k": 1}), span(attempted, 1, "again")])

    assert late == [span(attempted, 2, attributes={"k": 1, "agentlightning.late": True}, sequence_id=2)]
    assert (await store.query_spans(attempted.rollout_id)).items == [span(attempted, 1, sequence_id=1), *late]
    assert await found(store, attempted) == rollout


@pytest.mark.ways("http")
async def test_late_spans_are_limited_to_ten_thousand_per_attempt(store: LightningStore) -> None:
    attempted, other = await claimed(store), await claimed(store, "other")
    await store.add_span(span(attempted, 0))
    await store.update_attempt(attempted.rollout_id, "latest", status="succeeded")
    for first in range(1, 10_001, 2_000):
        await store.add_many_spans([span(attempted, n) for n in range(first, first + 2_000)])

    assert await store.add_many_spans([span(attempted, n) for n in (0, 1, 10_000)]) == []  # duplicates
    with pytest.raises(FinalStatus, match="10,000 late spans") as refused:
        await store.add_many_spans([span(other, 1), span(attempted, 10_001)])

    assert attempted.attempt.attempt_id in str(refused.value)
    assert (await store.query_spans(attempted.rollout_id, limit=0)).total == 10_001
    assert (await store.query_spans(other.rollout_id)).items == []
    assert await store.add_span(span(other, 1)) is not None


async def test_ended_rollout_has_all_its_spans(store: LightningStore) -> None:
    rollout = await store.enqueue_rollout("task")

    async def work() -> None:
        attempted = await store.dequeue_rollout(wait=10)
        assert attempted is not None
        await store.add_many_spans([span(attempted, n) for n in range(100)])
        await store.add_span(span(attempted, 100, "agentlightning.annotation"))
        await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status="succeeded")

    working = asyncio.create_task(work())
    await soon(store.wait_for_rollouts([rollout.rollout_id]))
    spans = await store.query_spans(rollout.rollout_id)
    await working

    assert [each.sequence_id for each in spans] == list(range(1, 102))
    assert spans[-1].name == "agentlightning.annotation"


# From OpenTelemetry


async def test_opentelemetry_span_is_stored_unchanged(store: LightningStore) -> None:
    exported = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    with provider.get_tracer("tests").start_as_current_span("call", attributes={"list": [1, 2]}) as recording:
        recording.add_event("started", {"k": "v"})
    provider.shutdown()
    (readable,) = exported.get_finished_spans()
    attempted = await claimed(store)
    ids = attempted.rollout_id, attempted.attempt.attempt_id

    stored = await store.add_otel_span(*ids, readable)

    assert stored == Span.from_opentelemetry(readable, *ids, 1)
    assert await store.add_otel_span(*ids, readable, 7) is None
    assert (await store.query_spans(attempted.rollout_id)).items == [stored]
    assert await statuses(store, attempted) == ("running", "running")
