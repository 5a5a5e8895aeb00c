"""Delivery of finished spans to the store: in order and without delaying the agent, even if the store fails."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from agentlightning.errors import FinalStatus, InvalidInput, NotFound, StaleAttempt, StoreUnavailable
from agentlightning.retry import RetryPolicy
from agentlightning.store import LightningStore
from agentlightning.tracer import DummyTracer, LightningTracer, OtelTracer, Tracer, pipeline
from agentlightning.tracer.disk_buffer import DiskBuffer
from agentlightning.types import Span

from .conftest import ScriptedStore, ids, over_both

ATTEMPT: dict[str, Any] = {"rollout_id": "ro-1", "attempt_id": "at-1"}
SPANS = pipeline.BATCH_SPANS + 1


def _names(count: int) -> list[str]:
    return [f"step {n}" for n in range(count)]


def _create_spans(tracer: Tracer, count: int) -> None:
    for name in _names(count):
        tracer.create_span(name)


@over_both
async def test_every_span_is_stored_in_order_when_trace_context_exits(store: LightningStore) -> None:
    tracer, attempted = OtelTracer(), await store.start_rollout("task")

    with tracer.lifespan(store):
        async with tracer.trace_context(**ids(attempted)):
            _create_spans(tracer, SPANS)
        spans = await store.query_spans(attempted.rollout_id)

    assert [(span.sequence_id, span.name) for span in spans] == list(enumerate(_names(SPANS), 1))


@pytest.mark.parametrize("tracer_type", [LightningTracer, OtelTracer, DummyTracer])
async def test_exit_of_trace_context_flushes_for_every_tracer(
    tracer_type: type[Tracer], scripted_store: ScriptedStore
) -> None:
    tracer = tracer_type()
    with tracer.lifespan(scripted_store):
        async with tracer.trace_context(**ATTEMPT):
            _create_spans(tracer, 2)
        assert scripted_store.names == _names(2)


async def test_flush_waits_for_the_last_span_after_a_full_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BATCH_SECONDS", 60)  # so that the first batch is full

    class HeldStore(ScriptedStore):
        """Answers the first request when a flush waits, and the second one when `released` is set."""

        flush_waits, second_request, released = threading.Event(), threading.Event(), threading.Event()

        def check(self, spans: Sequence[Span]) -> None:
            if self.requests == 1:
                self.flush_waits.wait(10)
            else:
                self.second_request.set()
                self.released.wait(10)

    tracer, store = OtelTracer(), HeldStore()
    with tracer.lifespan(store):
        async with tracer.trace_context(**ATTEMPT, flush=False):
            _create_spans(tracer, SPANS)
        flush = asyncio.create_task(tracer.flush())
        await asyncio.sleep(0)  # the flush has taken its token
        store.flush_waits.set()
        assert await asyncio.to_thread(store.second_request.wait, 10)
        finished, _ = await asyncio.wait({flush}, timeout=0.1)
        assert (len(store.spans), finished) == (pipeline.BATCH_SPANS, set())

        store.released.set()
        await flush
        assert store.names == _names(SPANS)


async def test_spans_have_the_ids_of_their_attempt_as_attributes(store: LightningStore) -> None:
    tracer, attempted = OtelTracer(), await store.start_rollout("task")

    async with tracer.trace_context(store=store, **ids(attempted)):
        tracer.create_span("step", {"why": "because"})

    [span] = await store.query_spans(attempted.rollout_id)
    assert span.attributes == {
        "agentlightning.rollout_id": attempted.rollout_id,
        "agentlightning.attempt_id": attempted.attempt.attempt_id,
        "why": "because",
    }
    assert span.attempt_id == attempted.attempt.attempt_id
    assert span.start_time == span.end_time


async def test_ending_a_span_does_not_wait_for_the_store(scripted_store: ScriptedStore) -> None:
    tracer = OtelTracer()
    with tracer.lifespan(scripted_store):
        scripted_store.answers.clear()
        async with tracer.trace_context(**ATTEMPT):
            _create_spans(tracer, 1000)
            assert len(tracer.get_last_trace()) == 1000
            assert scripted_store.spans == []
            scripted_store.answers.set()

    assert scripted_store.names == _names(1000)


async def test_export_is_retried_until_the_store_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.tracer.exporter.RETRY", RetryPolicy(0.001, 0.001))

    class _UnreachableStore(ScriptedStore):
        def check(self, spans: Sequence[Span]) -> None:
            if self.requests < 4:
                raise StoreUnavailable

    tracer, store = OtelTracer(), _UnreachableStore()
    async with tracer.trace_context(store=store, **ATTEMPT):
        tracer.create_span("step")

    assert (store.names, store.requests, tracer.dropped) == (["step"], 4, 0)


async def test_only_the_refused_span_of_a_batch_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    class StrictStore(ScriptedStore):
        def check(self, spans: Sequence[Span]) -> None:
            if any(span.name == "bad" for span in spans):
                raise InvalidInput("no bad spans here")

    tracer, store = OtelTracer(), StrictStore()
    async with tracer.trace_context(store=store, **ATTEMPT):
        for name in ["a", "b", "bad", "c", "d"]:
            tracer.create_span(name)

    assert (store.names, tracer.dropped) == (["a", "b", "c", "d"], 1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "Dropped 1 span: the store rejected 'bad' of rollout ro-1, attempt at-1: InvalidInput: no bad spans here"
    ]


@pytest.mark.parametrize("error", [StaleAttempt, NotFound])
async def test_final_error_drops_only_the_spans_of_that_attempt(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    class FinalStore(ScriptedStore):
        def check(self, spans: Sequence[Span]) -> None:
            if any(span.rollout_id == "ro-old" for span in spans):
                raise error

    tracer, store = OtelTracer(), FinalStore()
    with tracer.lifespan(store):
        async with (
            tracer.trace_context(rollout_id="ro-new", attempt_id="at-1"),
            tracer.trace_context(rollout_id="ro-old", attempt_id="at-1"),
        ):
            tracer.create_span("old 1")
            tracer.create_span("old 2")
        async with tracer.trace_context(rollout_id="ro-new", attempt_id="at-2"):
            tracer.create_span("new")

    assert (store.names, tracer.dropped) == (["new"], 2)
    assert caplog.text.count("Dropped") == 1


@over_both
async def test_values_that_json_cannot_represent_are_stored_as_text(store: LightningStore) -> None:
    tracer, attempted = OtelTracer(), await store.start_rollout("task")
    attributes = {
        "nan": float("nan"),
        "infinite": [1.0, float("-inf")],
        "lone surrogate": "a\ud83db",
        "too long": 2**70,
    }

    async with tracer.trace_context("name \ud83d", store=store, **ids(attempted)):
        tracer.create_span("step", attributes)

    span, named = await store.query_spans(attempted.rollout_id)
    assert {key: span.attributes[key] for key in attributes if key in span.attributes} == {
        "nan": "nan",
        "infinite": [1.0, "-inf"],
        "lone surrogate": "a\ufffdb",
        "too long": str(2**70),
    }
    assert named.name == "name \ufffd"
    assert tracer.dropped == 0


async def test_full_queue_delays_the_agent_and_loses_no_span(
    scripted_store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "QUEUE_SPANS", 10)
    tracer = OtelTracer()
    with tracer.lifespan(scripted_store):
        async with tracer.trace_context(**ATTEMPT):
            _create_spans(tracer, 100)

    assert scripted_store.names == _names(100)
    assert tracer.dropped == 0


class _UnreachableStore(ScriptedStore):
    """Raises `StoreUnavailable` until `is_back` is set."""

    is_back = False

    def check(self, spans: Sequence[Span]) -> None:
        if not self.is_back:
            raise StoreUnavailable


async def test_spans_are_dropped_and_counted_if_store_and_disk_fail(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline, "QUEUE_SPANS", 10)
    monkeypatch.setattr(pipeline, "FULL_QUEUE_TIMEOUT", 0.001)
    monkeypatch.setattr(pipeline, "STOP_TIMEOUT", 0.05)
    monkeypatch.setattr(DiskBuffer, "append", _disk_full)
    tracer, store = OtelTracer(), _UnreachableStore()
    with tracer.lifespan(store):
        async with tracer.trace_context(**ATTEMPT, flush=False):
            _create_spans(tracer, 100)

    assert (tracer.dropped, store.spans) == (100, [])
    assert caplog.text.count("neither the store nor the disk accepts spans") == 1
    assert caplog.text.count("No space left") >= 1


async def test_spans_for_an_unreachable_store_wait_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.tracer.exporter.RETRY", RetryPolicy(0.01, 0.01))
    monkeypatch.setattr(pipeline, "QUEUE_SPANS", 20)
    tracer, store = OtelTracer(), _UnreachableStore()
    with tracer.lifespan(store):
        async with tracer.trace_context(**ATTEMPT):
            _create_spans(tracer, 500)
            assert (store.spans, tracer.dropped) == ([], 0)
            assert len(tracer._pipeline._queue) <= 20
            store.is_back = True

    assert store.names == _names(500)
    assert tracer.dropped == 0


@over_both
async def test_report_is_sent_after_the_spans_and_returns_the_response(store: LightningStore) -> None:
    tracer, attempted = OtelTracer(), await store.start_rollout("task")
    with tracer.lifespan(store):
        async with tracer.trace_context(**ids(attempted), flush=False):
            _create_spans(tracer, SPANS)
        attempt = await tracer.report(store, **ids(attempted), status="succeeded")
        with pytest.raises(FinalStatus):
            await tracer.report(store, **ids(attempted), status="failed")

    assert attempt.status == "succeeded"
    spans = await store.query_spans(attempted.rollout_id)
    assert [span.name for span in spans if "agentlightning.late" not in span.attributes] == _names(SPANS)


async def test_teardown_gives_up_on_an_unreachable_store(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline, "STOP_TIMEOUT", 0.05)
    tracer = OtelTracer()
    tracer.init_worker(0, _UnreachableStore())

    async def record() -> None:
        async with tracer.trace_context(**ATTEMPT):
            _create_spans(tracer, 3)

    recording = asyncio.create_task(record())
    await asyncio.sleep(0)  # it has recorded its spans and waits for the store
    tracer.teardown_worker()

    await recording
    assert tracer.dropped == 3
    assert "Dropped 3 spans: the store did not accept them within 0.05 s after the tracer stopped" in caplog.text


async def test_spans_outside_of_trace_contexts_are_not_stored(scripted_store: ScriptedStore) -> None:
    tracer = OtelTracer()
    with tracer.lifespan(scripted_store):
        tracer.create_span("before")
        async with tracer.trace_context(**ATTEMPT):
            tracer.create_span("within")
        tracer.create_span("after")
        await tracer.flush()

    assert scripted_store.names == ["within"]


async def test_export_thread_ends_with_the_tracer(scripted_store: ScriptedStore) -> None:
    tracer = OtelTracer()
    async with tracer.trace_context(store=scripted_store, **ATTEMPT):
        tracer.create_span("step")

    assert [thread.name for thread in threading.enumerate() if thread.name == "agentlightning-exporter"] == []


def _disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
