"""Each tracer records its kinds of spans, and restores everything that it has patched."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from agentlightning.emitter import emit_reward
from agentlightning.instrumentation import Instrumentation
from agentlightning.tracer import DummyTracer, LightningTracer, OtelTracer, Tracer, tracers
from tests.scripted_model import ScriptedModel

from .conftest import ScriptedStore


def _ask(model: ScriptedModel) -> None:
    with OpenAI(base_url=model.base_url, api_key="none") as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])


async def _names(tracer: Tracer, model: ScriptedModel) -> list[str]:
    async with tracer.trace_context():
        with trace.get_tracer("library").start_as_current_span("library"):
            _ask(model)
        emit_reward(0.5)
    return [span.name for span in tracer.get_last_trace()]


async def test_lightning_tracer_records_calls_libraries_and_emitters(model: ScriptedModel) -> None:
    assert await _names(LightningTracer(), model) == ["openai.chat.completion", "library", "agentlightning.annotation"]


async def test_otel_tracer_records_libraries_and_emitters(model: ScriptedModel) -> None:
    assert await _names(OtelTracer(), model) == ["library", "agentlightning.annotation"]


async def test_dummy_tracer_records_emitters_only(model: ScriptedModel) -> None:
    assert await _names(DummyTracer(), model) == ["agentlightning.annotation"]


async def test_dummy_tracer_stores_spans_of_emitters(scripted_store: ScriptedStore) -> None:
    tracer = DummyTracer()
    async with tracer.trace_context(store=scripted_store, rollout_id="ro-1", attempt_id="at-1"):
        with tracer.operation_context("part", {"n": 1}) as part:
            part.set_attributes({"more": True})

    [span] = scripted_store.spans
    assert (span.name, span.rollout_id, span.status.status_code) == ("part", "ro-1", "OK")
    assert span.attributes["more"] is True


async def test_patches_of_another_tracer_record_nothing(model: ScriptedModel) -> None:
    with LightningTracer().lifespan():
        assert await _names(OtelTracer(), model) == ["library", "agentlightning.annotation"]


def test_patches_are_undone_with_the_last_tracer() -> None:
    patched: list[tuple[Any, str]] = [
        (httpx2.Client, "send"),
        (httpx2.AsyncClient, "send"),
        (threading.Thread, "start"),
    ]
    patched.append((ThreadPoolExecutor, "submit"))
    originals = [getattr(owner, name) for owner, name in patched]

    first, second = LightningTracer(), LightningTracer()
    with first.lifespan():
        with second.lifespan():
            assert all(getattr(owner, name) is not old for (owner, name), old in zip(patched, originals, strict=True))
        assert httpx2.Client.send is not originals[0]

    assert [getattr(owner, name) for owner, name in patched] == originals


def test_repeated_teardown_does_nothing() -> None:
    tracer, other = LightningTracer(), LightningTracer()
    before = httpx2.Client.send
    other.init_worker(0)
    tracer.init_worker(1)
    tracer.teardown_worker()
    tracer.teardown_worker()
    assert httpx2.Client.send is not before
    other.teardown_worker()
    assert httpx2.Client.send is before


def test_failed_setup_undoes_all_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Instrumentation):
        def _apply(self) -> None:
            raise RuntimeError("cannot be patched")

    tracer, before = LightningTracer(), httpx2.Client.send
    working = tracer.instrumentations()
    with monkeypatch.context() as patched:
        patched.setattr(tracer, "instrumentations", lambda: [*working, Broken()])
        with pytest.raises(RuntimeError, match="cannot be patched"):
            tracer.init_worker(0)

    assert (tracer.is_set_up, httpx2.Client.send) == (False, before)
    with tracer.lifespan():
        assert httpx2.Client.send is not before


async def test_shared_tracer_works_until_its_last_worker_is_torn_down(scripted_store: ScriptedStore) -> None:
    tracer = OtelTracer()
    tracer.init_worker(0, scripted_store)
    tracer.init_worker(1, scripted_store)
    tracer.teardown_worker()
    async with tracer.trace_context(rollout_id="ro-1", attempt_id="at-1"):
        tracer.create_span("step")
    tracer.teardown_worker()
    assert scripted_store.names == ["step"]


def test_setup_of_a_tracer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agentlightning")
    with OtelTracer().lifespan():
        pass
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("agentlightning.tracer", "[Worker 0] Setting up tracer..."),
        ("agentlightning.tracer", "[Worker 0] Instrumentation applied."),
    ]


def test_pickled_tracer_starts_without_workers() -> None:
    tracer = LightningTracer()
    with tracer.lifespan():
        copy = pickle.loads(pickle.dumps(tracer))
    assert type(copy) is LightningTracer
    assert not copy.is_set_up


async def test_provider_of_the_user_is_used_and_its_processors_get_decoded_calls(
    model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    users_provider, exported = TracerProvider(), InMemorySpanExporter()
    users_provider.add_span_processor(SimpleSpanProcessor(exported))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: users_provider)
    tracer = LightningTracer()

    async with tracer.trace_context():
        _ask(model)
        emit_reward(1.0)

    exported_spans = [(span.name, [*(span.attributes or {})]) for span in exported.get_finished_spans()]
    assert exported_spans == [(span.name, [*span.attributes]) for span in tracer.get_last_trace()]
    assert "gen_ai.completion.0.content" in exported_spans[0][1]


def test_default_provider_detects_processors_of_the_user() -> None:
    own_provider, exported = tracers._DefaultProvider(), InMemorySpanExporter()
    assert not own_provider.has_other_processors
    own_provider.add_span_processor(SimpleSpanProcessor(exported))
    assert own_provider.has_other_processors


async def test_rewards_are_recorded_even_if_the_sampler_drops_them(monkeypatch: pytest.MonkeyPatch) -> None:
    users_provider = TracerProvider(sampler=ALWAYS_OFF)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: users_provider)
    tracer = OtelTracer()
    async with tracer.trace_context():
        emit_reward(1.0)
    assert [span.name for span in tracer.get_last_trace()] == ["agentlightning.annotation"]


def test_importing_tracers_and_emitters_loads_no_sdk() -> None:
    code = """
import sys
import agentlightning.tracer.tracers, agentlightning.emitter, agentlightning.adapter
print(*sorted({"openai", "httpx", "httpx2", "agentops", "anthropic", "aiohttp", "starlette"} & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
