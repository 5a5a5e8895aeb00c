"""The AgentOps SDK as instrumentation: one span per call, and no side effects for the user."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI, Stream

from agentlightning.instrumentation import AGENTOPS
from agentlightning.tracer import AgentOpsTracer, LightningTracer
from agentlightning.types import Span
from tests.scripted_model import Answer, ScriptedModel

agentops: Any = pytest.importorskip("agentops")

HELLO: Any = [{"role": "user", "content": "Hello"}]
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def client(model: ScriptedModel) -> Iterator[OpenAI]:
    with OpenAI(base_url=model.base_url, api_key="none", max_retries=0) as client:
        yield client


def _llm_calls(spans: list[Span]) -> list[Span]:
    return [span for span in spans if not span.name.startswith("tool_call")]


async def test_call_recorded_by_agentops_and_wire_tap_is_one_span(model: ScriptedModel, client: OpenAI) -> None:
    tracer = AgentOpsTracer()
    model.script(Answer("Hi.", tool_calls=[("add", {"a": 1})], token_ids=[7, 8]))
    async with tracer.trace_context():
        client.chat.completions.create(model="m", messages=HELLO, tools=[ADD])

    [span] = _llm_calls(tracer.get_last_trace())
    assert (span.name, span.status.status_code) == ("openai.chat.completion", "OK")
    of_agentops = {"gen_ai.system": "OpenAI", "gen_ai.request.type": "chat"}
    of_wire_tap = {"gen_ai.operation.name": "chat", "agentlightning.token_ids": "[7,8]"}
    both = {
        "gen_ai.prompt.0.content": "Hello",
        "gen_ai.completion.0.content": "Hi.",
        "gen_ai.completion.0.finish_reason": "tool_calls",
        "gen_ai.response.id": "chatcmpl-1",
    }
    assert {**of_agentops, **of_wire_tap, **both}.items() <= span.attributes.items()
    assert json.loads(span.attributes["agentlightning.response"])["id"] == "chatcmpl-1"
    # AgentOps creates a child span for each tool call of the model.
    assert [other.name for other in tracer.get_last_trace() if other.parent_id == span.span_id] == ["tool_call.add"]


async def test_async_call_recorded_by_agentops_and_wire_tap_is_one_span(model: ScriptedModel) -> None:
    tracer = AgentOpsTracer()
    async with AsyncOpenAI(base_url=model.base_url, api_key="none") as client, tracer.trace_context():
        answer = await client.chat.completions.create(model="m", messages=HELLO)

    assert answer.choices[0].message.content == "You said: Hello"
    [span] = tracer.get_last_trace()
    assert span.attributes["gen_ai.system"] == "OpenAI"
    assert "agentlightning.response" in span.attributes


async def test_streams_are_of_the_sdks_types_and_recorded_completely(model: ScriptedModel, client: OpenAI) -> None:
    tracer = AgentOpsTracer()
    async with tracer.trace_context():
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert type(stream) is Stream
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        with client.chat.completions.create(model="m", messages=HELLO, stream=True) as stream:
            next(stream)
        with client.chat.completions.stream(model="m", messages=HELLO) as helper:
            helper.until_done()

    assert text == "You said: Hello"
    assert [call.body.get("stream_options") for call in model.calls] == [None, None, None]
    assert [span.name for span in tracer.get_last_trace()] == ["openai.chat.completion"] * 3
    assert tracer.get_last_trace()[0].attributes["gen_ai.completion.0.content"] == "You said: Hello"


async def test_calls_that_agentops_would_break_succeed(model: ScriptedModel, client: OpenAI) -> None:
    tracer = AgentOpsTracer()
    async with tracer.trace_context():
        client.chat.completions.create(model="m", messages=HELLO, tools=openai.omit, temperature=openai.omit)
        raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        client.chat.completions.parse(model="m", messages=HELLO)
        client.responses.create(model="m", input="Hello")

    assert raw.parse().id == "chatcmpl-2"
    assert [span.name for span in tracer.get_last_trace()] == ["openai.chat.completion"] * 3 + ["openai.responses"]


async def test_failures_of_agentops_do_not_reach_the_user(
    model: ScriptedModel, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentops.instrumentation.providers.openai import stream_wrapper

    for fail_when_answered in (False, True):
        original = stream_wrapper.handle_chat_attributes

        def handle(when: bool = fail_when_answered, real: Any = original, **given: Any) -> Any:
            if ("return_value" in given) == when:
                raise KeyError("a bug in AgentOps")
            return real(**given)

        with monkeypatch.context() as patched:
            patched.setattr(stream_wrapper, "handle_chat_attributes", handle)
            async with AgentOpsTracer().trace_context():
                answer = client.chat.completions.create(model="m", messages=HELLO)
        assert answer.choices[0].message.content == "You said: Hello"

    assert len(model.calls) == 2


async def test_errors_of_the_sdk_reach_the_user_unchanged(model: ScriptedModel, client: OpenAI) -> None:
    tracer = AgentOpsTracer()
    model.script(Answer("overloaded", status=500))
    async with tracer.trace_context():
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="m", messages=HELLO)

    [span] = tracer.get_last_trace()
    assert span.status.status_code == "ERROR"
    assert "overloaded" in str(span.status.description)
    assert span.attributes["http.response.status_code"] == 500


async def test_decorated_tool_is_recorded_without_waiting_for_the_store(scripted_store: Any) -> None:
    @agentops.tool(name="look up")
    def look_up(word: str) -> str:
        return word.upper()

    tracer = AgentOpsTracer()
    with tracer.lifespan(scripted_store):
        scripted_store.answers.clear()
        async with tracer.trace_context(rollout_id="ro-1", attempt_id="at-1"):
            assert look_up("x") == "X"
            scripted_store.answers.set()

    [span] = scripted_store.spans
    assert span.attributes["agentops.span.kind"] == "tool"


async def test_patches_are_undone_and_can_be_applied_again(model: ScriptedModel, client: OpenAI) -> None:
    from openai.resources.chat.completions import AsyncCompletions, Completions

    before = [Completions.__dict__["create"], AsyncCompletions.__dict__["create"]]
    for _ in range(2):
        tracer = AgentOpsTracer()
        async with tracer.trace_context():
            assert Completions.__dict__["create"] is not before[0]
            client.chat.completions.create(model="m", messages=HELLO)
        assert len(tracer.get_last_trace()) == 1
        assert [Completions.__dict__["create"], AsyncCompletions.__dict__["create"]] == before


def test_use_of_agentops_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agentlightning")
    with AgentOpsTracer().lifespan():
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "[Worker 0] Setting up tracer...",
        "[Worker 0] Instrumentation applied.",
        "[Worker 0] AgentOps client initialized.",
    ]


def test_agentops_has_no_side_effects(tmp_path: Path) -> None:
    program = """
import asyncio, builtins, socket, threading
from pathlib import Path

def refuse(*_):
    raise AssertionError("the network was used")

before = builtins.print, builtins.__import__
socket.getaddrinfo = socket.socket.connect = refuse
from agentlightning.tracer import AgentOpsTracer

async def main():
    async with AgentOpsTracer().trace_context():
        import agentops
        with agentops.start_trace("whole"):
            pass
        return builtins.print, builtins.__import__

assert asyncio.run(main()) == before
assert threading.enumerate() == [threading.main_thread()]
assert list(Path().iterdir()) == []
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


async def test_library_imported_after_the_setup_is_instrumented_with_the_next_trace(
    model: ScriptedModel, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = AgentOpsTracer()
    with monkeypatch.context() as hidden:
        hidden.delitem(sys.modules, "openai")
        tracer.init_worker()
    for _ in range(2):
        async with tracer.trace_context():
            client.chat.completions.create(model="m", messages=HELLO)
        [span] = tracer.get_last_trace()
        assert (span.name, span.attributes.get("gen_ai.system")) == ("openai.chat.completion", "OpenAI")
    tracer.teardown_worker()


async def test_missing_sdk_is_logged_once_and_calls_are_recorded(
    model: ScriptedModel, client: OpenAI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(type(AGENTOPS), "is_installed", False)
    monkeypatch.setattr(AgentOpsTracer, "_missing_logged", False)
    caplog.set_level(logging.INFO, "agentlightning")

    for _ in range(2):
        tracer = AgentOpsTracer()
        async with tracer.trace_context():
            client.chat.completions.create(model="m", messages=HELLO)
        [span] = tracer.get_last_trace()
        assert span.attributes["gen_ai.completion.0.content"] == "You said: Hello"
        assert "gen_ai.system" not in span.attributes

    assert caplog.text.count("pip install 'agentlightning[agentops]'") == 1
    assert "AgentOps client initialized" not in caplog.text


async def test_calls_of_another_tracer_are_not_recorded_by_agentops(model: ScriptedModel, client: OpenAI) -> None:
    tracer = LightningTracer()
    async with tracer.trace_context():
        client.chat.completions.create(model="m", messages=HELLO)
    assert "gen_ai.system" not in tracer.get_last_trace()[0].attributes
