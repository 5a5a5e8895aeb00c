"""The AgentOps SDK, used as instrumentation: one span a call, and nothing of its that the user would notice."""

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


async def test_a_call_that_both_see_is_one_span_with_what_both_know(model: ScriptedModel, client: OpenAI) -> None:
    tracer = AgentOpsTracer()
    model.script(Answer("Hi.", tool_calls=[("add", {"a": 1})], token_ids=[7, 8]))
    async with tracer.trace_context():
        client.chat.completions.create(model="m", messages=HELLO, tools=[ADD])

    [span] = _llm_calls(tracer.get_last_trace())
    assert (span.name, span.status.status_code) == ("openai.chat.completion", "OK")
    theirs = {"gen_ai.system": "OpenAI", "gen_ai.request.type": "chat"}
    ours = {"gen_ai.operation.name": "chat", "agentlightning.token_ids": "[7,8]"}
    both = {
        "gen_ai.prompt.0.content": "Hello",
        "gen_ai.completion.0.content": "Hi.",
        "gen_ai.completion.0.finish_reason": "tool_calls",
        "gen_ai.response.id": "chatcmpl-1",
    }
    assert {**theirs, **ours, **both}.items() <= span.attributes.items()
    assert json.loads(span.attributes["agentlightning.response"])["id"] == "chatcmpl-1"
    # AgentOps has a child span for each tool that the model asks for.
    assert [other.name for other in tracer.get_last_trace() if other.parent_id == span.span_id] == ["tool_call.add"]


async def test_async_calls_are_one_span_too(model: ScriptedModel) -> None:
    tracer = AgentOpsTracer()
    async with AsyncOpenAI(base_url=model.base_url, api_key="none") as client, tracer.trace_context():
        answer = await client.chat.completions.create(model="m", messages=HELLO)

    assert answer.choices[0].message.content == "You said: Hello"
    [span] = tracer.get_last_trace()
    assert span.attributes["gen_ai.system"] == "OpenAI"
    assert "agentlightning.response" in span.attributes


async def test_streams_are_the_sdks_own_and_recorded_whole(model: ScriptedModel, client: OpenAI) -> None:
    tracer = AgentOpsTracer()
    async with tracer.trace_context():
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert type(stream) is Stream
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        with client.chat.completions.create(model="m", messages=HELLO, stream=True) as stream:
            next(stream)
        with client.chat.completions.stream(model="m", messages=HELLO) as helper:
            helper.until_done()

    assert said == "You said: Hello"
    assert [call.body.get("stream_options") for call in model.calls] == [None, None, None]
    assert [span.name for span in tracer.get_last_trace()] == ["openai.chat.completion"] * 3
    assert tracer.get_last_trace()[0].attributes["gen_ai.completion.0.content"] == "You said: Hello"


async def test_calls_it_cannot_bear_are_made_all_the_same(model: ScriptedModel, client: OpenAI) -> None:
    tracer = AgentOpsTracer()
    async with tracer.trace_context():
        client.chat.completions.create(model="m", messages=HELLO, tools=openai.omit, temperature=openai.omit)
        raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        client.chat.completions.parse(model="m", messages=HELLO)
        client.responses.create(model="m", input="Hello")

    assert raw.parse().id == "chatcmpl-2"
    assert [span.name for span in tracer.get_last_trace()] == ["openai.chat.completion"] * 3 + ["openai.responses"]


async def test_its_own_failures_do_not_reach_the_user(
    model: ScriptedModel, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentops.instrumentation.providers.openai import stream_wrapper

    for fail_when_answered in (False, True):
        original = stream_wrapper.handle_chat_attributes

        def handle(when: bool = fail_when_answered, real: Any = original, **given: Any) -> Any:
            if ("return_value" in given) == when:
                raise KeyError("a bug of theirs")
            return real(**given)

        with monkeypatch.context() as patched:
            patched.setattr(stream_wrapper, "handle_chat_attributes", handle)
            async with AgentOpsTracer().trace_context():
                answer = client.chat.completions.create(model="m", messages=HELLO)
        assert answer.choices[0].message.content == "You said: Hello"

    assert len(model.calls) == 2


async def test_errors_reach_the_user_unchanged(model: ScriptedModel, client: OpenAI) -> None:
    tracer = AgentOpsTracer()
    model.script(Answer("overloaded", status=500))
    async with tracer.trace_context():
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="m", messages=HELLO)

    [span] = tracer.get_last_trace()
    assert span.status.status_code == "ERROR"
    assert "overloaded" in str(span.status.description)
    assert span.attributes["http.response.status_code"] == 500


async def test_its_decorators_make_spans_without_waiting_for_the_store(scripted_store: Any) -> None:
    @agentops.tool(name="look up")
    def look_up(word: str) -> str:
        return word.upper()

    tracer = AgentOpsTracer()
    with tracer.lifespan(scripted_store):
        scripted_store.opened.clear()
        async with tracer.trace_context(rollout_id="ro-1", attempt_id="at-1"):
            assert look_up("x") == "X"
            scripted_store.opened.set()

    [span] = scripted_store.spans
    assert span.attributes["agentops.span.kind"] == "tool"


async def test_what_it_patched_is_put_back_and_can_be_patched_again(model: ScriptedModel, client: OpenAI) -> None:
    from openai.resources.chat.completions import AsyncCompletions, Completions

    before = [Completions.__dict__["create"], AsyncCompletions.__dict__["create"]]
    for _ in range(2):
        tracer = AgentOpsTracer()
        async with tracer.trace_context():
            assert Completions.__dict__["create"] is not before[0]
            client.chat.completions.create(model="m", messages=HELLO)
        assert len(tracer.get_last_trace()) == 1
        assert [Completions.__dict__["create"], AsyncCompletions.__dict__["create"]] == before


def test_it_says_that_it_is_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agentlightning")
    with AgentOpsTracer().lifespan():
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "[Worker 0] Setting up tracer...",
        "[Worker 0] Instrumentation applied.",
        "[Worker 0] AgentOps client initialized.",
    ]


def test_nothing_else_of_it_is_there(tmp_path: Path) -> None:
    program = """
import asyncio, builtins, socket, threading
from pathlib import Path

def refuse(*_):
    raise AssertionError("the network was asked")

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
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_library_imported_after_the_worker_was_set_up_is_instrumented_too(model: ScriptedModel) -> None:
    program = """
import asyncio, sys
from agentlightning.tracer import AgentOpsTracer

tracer = AgentOpsTracer()

async def main():
    async with tracer.trace_context():
        from openai import OpenAI
        with OpenAI(base_url=sys.argv[1], api_key="none") as client:
            for _ in range(2):
                async with tracer.trace_context():
                    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
                [span] = tracer.get_last_trace()
                print(span.name, span.attributes.get("gen_ai.system"))

asyncio.run(main())
"""
    command = [sys.executable, "-c", program, model.base_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["openai.chat.completion OpenAI"] * 2


async def test_without_the_sdk_it_records_all_the_same_and_says_so_once(
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


async def test_another_tracers_calls_are_not_its_business(model: ScriptedModel, client: OpenAI) -> None:
    tracer = LightningTracer()
    async with tracer.trace_context():
        client.chat.completions.create(model="m", messages=HELLO)
    assert "gen_ai.system" not in tracer.get_last_trace()[0].attributes
