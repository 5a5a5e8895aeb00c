"""From an ended span to the store: in order, without making the agent wait, whatever the store does."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import Sequence

import pytest

from agentlightning.errors import FinalStatus, InvalidInput, NotFound, StaleAttempt, StoreUnavailable
from agentlightning.retry import RetryPolicy
from agentlightning.store import LightningStore
from agentlightning.tracer import DummyTracer, LightningTracer, OtelTracer, Tracer, pipeline as pipelines
from agentlightning.tracer.disk_buffer import DiskBuffer
from agentlightning.types import Span

from .conftest import ScriptedStore, ids

SOMEWHERE = {"rollout_id": "ro-1", "attempt_id": "at-1"}


@pytest.mark.parametrize("kind", [LightningTracer, OtelTracer, DummyTracer])
async def test_every_span_is_in_the_store_when_its_trace_context_is_left(
    kind: type[Tracer], store: LightningStore
) -> None:
    tracer, attempted = kind(), await store.start_rollout("task")

    with tracer.lifespan(store):
        async with tracer.trace_context(**ids(attempted)):
            for n in range(600):
                tracer.create_span(f"step {n}", {"n": n})
        spans = await store.query_spans(attempted.rollout_id)

    assert [(span.sequence_id, span.name, span.attributes["n"]) for span in spans] == [
        (n + 1, f"step {n}", n) for n in range(600)
    ]


async def test_spans_carry_their_ids_as_attributes(store: LightningStore) -> None:
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


async def test_ending_a_span_never_waits_for_the_store(scripted_store: ScriptedStore) -> None:
    tracer = OtelTracer()
    with tracer.lifespan(scripted_store):
        scripted_store.opened.clear()
        async with tracer.trace_context(**SOMEWHERE):
            for n in range(1000):
                tracer.create_span(f"step {n}")
            assert len(tracer.get_last_trace()) == 1000
            assert scripted_store.spans == []
            scripted_store.opened.set()

    assert scripted_store.names == [f"step {n}" for n in range(1000)]


async def test_a_store_that_is_away_is_asked_again_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.tracer.exporter.RETRY", RetryPolicy(0.001, 5.0))

    class Away(ScriptedStore):
        def refuse(self, spans: Sequence[Span]) -> None:
            if self.asked < 4:
                raise StoreUnavailable

    tracer, store = OtelTracer(), Away()
    async with tracer.trace_context(store=store, **SOMEWHERE):
        tracer.create_span("patient")

    assert (store.names, store.asked, tracer.dropped) == (["patient"], 4, 0)


async def test_one_bad_span_does_not_take_its_batch_along(caplog: pytest.LogCaptureFixture) -> None:
    class Picky(ScriptedStore):
        def refuse(self, spans: Sequence[Span]) -> None:
            if any(span.name == "bad" for span in spans):
                raise InvalidInput("no bad spans here")

    tracer, store = OtelTracer(), Picky()
    async with tracer.trace_context(store=store, **SOMEWHERE):
        for name in ["a", "b", "bad", "c", "d"]:
            tracer.create_span(name)

    assert (store.names, tracer.dropped) == (["a", "b", "c", "d"], 1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "Dropped 1 span: the store refused 'bad' of rollout ro-1, attempt at-1: InvalidInput: no bad spans here"
    ]


@pytest.mark.parametrize("error", [StaleAttempt, NotFound])
async def test_a_final_answer_drops_that_attempts_spans_and_keeps_the_others(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    class Final(ScriptedStore):
        def refuse(self, spans: Sequence[Span]) -> None:
            if any(span.rollout_id == "ro-old" for span in spans):
                raise error

    tracer, store = OtelTracer(), Final()
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


async def test_what_json_cannot_carry_is_stored_as_text(store: LightningStore) -> None:
    tracer, attempted = OtelTracer(), await store.start_rollout("task")
    odd = {
        "nan": float("nan"),
        "infinite": [1.0, float("-inf")],
        "half a pair": "a\ud83db",
        "too long": 2**70,
    }

    async with tracer.trace_context("name \ud83d", store=store, **ids(attempted)):
        tracer.create_span("odd", odd)

    odd_span, named = await store.query_spans(attempted.rollout_id)
    assert {key: odd_span.attributes[key] for key in odd if key in odd_span.attributes} == {
        "nan": "nan",
        "infinite": [1.0, "-inf"],
        "half a pair": "a\ufffdb",
        "too long": str(2**70),
    }
    assert named.name == "name \ufffd"
    assert tracer.dropped == 0


async def test_a_full_queue_makes_the_agent_wait_and_costs_no_span(
    scripted_store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "QUEUE_SPANS", 10)
    tracer = OtelTracer()
    with tracer.lifespan(scripted_store):
        async with tracer.trace_context(**SOMEWHERE):
            for n in range(100):
                tracer.create_span(f"{n}")

    assert scripted_store.names == [f"{n}" for n in range(100)]
    assert tracer.dropped == 0


class Away(ScriptedStore):
    """Does not answer until it is `opened`."""

    def refuse(self, spans: Sequence[Span]) -> None:
        if not self.back:
            raise StoreUnavailable

    back = False


async def test_where_neither_store_nor_disk_takes_anything_spans_are_dropped_counted_and_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipelines, "QUEUE_SPANS", 10)
    monkeypatch.setattr(pipelines, "FULL_QUEUE_TIMEOUT", 0.01)
    monkeypatch.setattr(pipelines, "STOP_TIMEOUT", 0.05)
    monkeypatch.setattr(DiskBuffer, "append", _disk_full)
    tracer, store = OtelTracer(), Away()
    with tracer.lifespan(store):
        async with tracer.trace_context(**SOMEWHERE, flush=False):
            for n in range(100):
                tracer.create_span(f"{n}")

    assert (tracer.dropped, store.spans) == (100, [])
    assert caplog.text.count("neither the store nor the disk accepts spans") == 1
    assert caplog.text.count("No space left") >= 1


async def test_what_a_store_that_is_away_is_to_get_waits_on_disk_and_not_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentlightning.tracer.exporter.RETRY", RetryPolicy(0.01, 5.0))
    monkeypatch.setattr(pipelines, "QUEUE_SPANS", 100)
    tracer, store = OtelTracer(), Away()
    with tracer.lifespan(store):
        async with tracer.trace_context(**SOMEWHERE):
            for n in range(2_000):
                tracer.create_span(f"{n}", {"text": "x" * 1_000})
            assert (store.spans, tracer.dropped) == ([], 0)
            assert len(tracer._pipeline._queue) <= 100
            store.back = True

    assert store.names == [f"{n}" for n in range(2_000)]
    assert tracer.dropped == 0


async def test_a_report_comes_behind_the_spans_and_brings_back_the_answer(store: LightningStore) -> None:
    tracer, attempted = OtelTracer(), await store.start_rollout("task")
    with tracer.lifespan(store):
        async with tracer.trace_context(**ids(attempted), flush=False):
            for n in range(700):
                tracer.create_span(f"step {n}")
        attempt = await tracer.report(store, **ids(attempted), status="succeeded")
        with pytest.raises(FinalStatus):
            await tracer.report(store, **ids(attempted), status="failed")

    assert attempt.status == "succeeded"
    spans = await store.query_spans(attempted.rollout_id)
    assert [span.name for span in spans if "agentlightning.late" not in span.attributes] == [
        f"step {n}" for n in range(700)
    ]


async def test_teardown_does_not_wait_for_ever_for_a_store_that_stays_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipelines, "STOP_TIMEOUT", 0.05)
    tracer = OtelTracer()
    tracer.init_worker(0, Away())
    leaving = asyncio.create_task(_record(tracer, 3))
    await asyncio.sleep(0)  # it has recorded its spans and waits for the store
    tracer.teardown_worker()

    await leaving
    assert tracer.dropped == 3
    assert "Dropped 3 spans: the store did not accept them within 0.05 s after the tracer stopped" in caplog.text


async def test_what_happens_outside_of_any_trace_context_is_nobodys(scripted_store: ScriptedStore) -> None:
    tracer = OtelTracer()
    with tracer.lifespan(scripted_store):
        tracer.create_span("before")
        async with tracer.trace_context(**SOMEWHERE):
            tracer.create_span("within")
        tracer.create_span("after")
        await tracer.flush()

    assert scripted_store.names == ["within"]


async def test_no_thread_is_left_behind(scripted_store: ScriptedStore) -> None:
    tracer = OtelTracer()
    async with tracer.trace_context(store=scripted_store, **SOMEWHERE):
        tracer.create_span("step")

    assert [thread.name for thread in threading.enumerate() if thread.name == "agentlightning-exporter"] == []


def _disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def _record(tracer: Tracer, count: int) -> None:
    async with tracer.trace_context(**SOMEWHERE):
        for n in range(count):
            tracer.create_span(f"step {n}")
