"""What each tracer watches, and that it leaves nothing behind."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

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
from agentlightning.tracer import DummyTracer, LightningTracer, OtelTracer, Tracer, provider
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


async def test_lightning_sees_calls_and_libraries(model: ScriptedModel) -> None:
    assert await _names(LightningTracer(), model) == ["openai.chat.completion", "library", "agentlightning.annotation"]


async def test_otel_sees_libraries_only(model: ScriptedModel) -> None:
    assert await _names(OtelTracer(), model) == ["library", "agentlightning.annotation"]


async def test_dummy_sees_only_what_is_said(model: ScriptedModel) -> None:
    assert await _names(DummyTracer(), model) == ["agentlightning.annotation"]


async def test_what_dummy_is_told_reaches_a_store_where_there_is_one(scripted_store: ScriptedStore) -> None:
    tracer = DummyTracer()
    async with tracer.trace_context(store=scripted_store, rollout_id="ro-1", attempt_id="at-1"):
        with tracer.operation_context("part", {"n": 1}) as part:
            part.set_attributes({"more": True})

    [span] = scripted_store.spans
    assert (span.name, span.rollout_id, span.status.status_code) == ("part", "ro-1", "OK")
    assert span.attributes["more"] is True


async def test_another_tracers_hooks_are_not_used(model: ScriptedModel) -> None:
    with LightningTracer().lifespan():
        assert await _names(OtelTracer(), model) == ["library", "agentlightning.annotation"]


def test_everything_patched_is_put_back() -> None:
    hooks = [(httpx2.Client, "send"), (httpx2.AsyncClient, "send"), (threading.Thread, "start")]
    hooks.append((ThreadPoolExecutor, "submit"))
    before = [getattr(owner, name) for owner, name in hooks]

    first, second = LightningTracer(), LightningTracer()
    with first.lifespan():
        with second.lifespan():
            assert all(getattr(owner, name) is not was for (owner, name), was in zip(hooks, before, strict=True))
        assert httpx2.Client.send is not before[0]

    assert [getattr(owner, name) for owner, name in hooks] == before


def test_tearing_down_twice_is_as_good_as_once() -> None:
    tracer, other = LightningTracer(), LightningTracer()
    before = httpx2.Client.send
    other.init_worker(0)
    tracer.init_worker(1)
    tracer.teardown_worker()
    tracer.teardown_worker()
    assert httpx2.Client.send is not before
    other.teardown_worker()
    assert httpx2.Client.send is before


def test_a_tracer_that_cannot_be_set_up_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_workers_that_share_a_tracer_each_set_it_up_and_take_it_down(scripted_store: ScriptedStore) -> None:
    tracer = OtelTracer()
    tracer.init_worker(0, scripted_store)
    tracer.init_worker(1, scripted_store)
    tracer.teardown_worker()
    async with tracer.trace_context(rollout_id="ro-1", attempt_id="at-1"):
        tracer.create_span("still there")
    tracer.teardown_worker()
    assert scripted_store.names == ["still there"]


def test_setting_up_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agentlightning")
    with OtelTracer().lifespan():
        pass
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("agentlightning.tracer", "[Worker 0] Setting up tracer..."),
        ("agentlightning.tracer", "[Worker 0] Instrumentation applied."),
    ]


def test_a_tracer_can_be_sent_to_another_process() -> None:
    tracer = LightningTracer()
    with tracer.lifespan():
        copy = pickle.loads(pickle.dumps(tracer))
    assert type(copy) is LightningTracer
    assert not copy.is_set_up


async def test_the_users_own_provider_is_used_and_its_exporters_see_all(
    model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, exported = TracerProvider(), InMemorySpanExporter()
    theirs.add_span_processor(SimpleSpanProcessor(exported))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: theirs)
    tracer = LightningTracer()

    async with tracer.trace_context():
        _ask(model)
        emit_reward(1.0)

    theirs_saw = [(span.name, [*(span.attributes or {})]) for span in exported.get_finished_spans()]
    assert theirs_saw == [(span.name, [*span.attributes]) for span in tracer.get_last_trace()]
    assert "gen_ai.completion.0.content" in theirs_saw[0][1]


def test_who_joins_our_provider_sees_all_too() -> None:
    joined, exported = provider._DefaultProvider(), InMemorySpanExporter()
    assert not joined.has_other_processors
    joined.add_span_processor(SimpleSpanProcessor(exported))
    assert joined.has_other_processors


async def test_a_sampler_cannot_lose_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = TracerProvider(sampler=ALWAYS_OFF)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: theirs)
    tracer = OtelTracer()
    async with tracer.trace_context():
        emit_reward(1.0)
    assert [span.name for span in tracer.get_last_trace()] == ["agentlightning.annotation"]


@pytest.mark.parametrize("module", ["tracer", "tracer.tracers", "emitter", "adapter"])
def test_importing_loads_no_sdk(module: str) -> None:
    heavy = {"openai", "httpx", "httpx2", "agentops", "anthropic", "aiohttp", "starlette"}
    code = f"import sys, agentlightning.{module}; print(*(sorted({heavy} & sys.modules.keys())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
