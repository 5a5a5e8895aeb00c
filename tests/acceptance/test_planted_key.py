"""A planted API key appears in no span, no log line, no file and no page, by whichever path it arrives.

Keys that the proxy itself uses: tests/llm_proxy/test_security.py. Through programs:
tests/command_agent/test_any_language.py.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import agentlightning as agl
from agentlightning.dashboard.exported import collect_run, render_page
from agentlightning.errors import InvalidInput
from agentlightning.runner.outcome import outcome_of_error
from agentlightning.tracer.exporter import SpanExporter
from agentlightning.tracer.spans import AttemptReport, DropCounter, FinishedSpan, SpanBatch
from tests.scripted_model import Answer, ScriptedModel

SECRET = "PLANTED1"
"""Every planted key contains this text."""
LETTERS = SECRET * 8
KEYS = (
    f"sk-{LETTERS}",
    f"sk-ant-api03-{LETTERS}",
    f"AKIA{SECRET * 2}",
    f"AIza{LETTERS}",
    f"hf_{LETTERS}",
    f"ghp_{LETTERS}",
    f"github_pat_{LETTERS}",
    f"xoxb-{LETTERS}",
    f"Bearer {LETTERS}",
    f"agl-attempt-{LETTERS}",
)
BEFORE = ("\n", "\t", "\r\n", "é", "\x1b[31m", '"', "'", "=", "\\n", "\\u00e9", "%20", "\N{ZERO WIDTH SPACE}")
TEXT = " ".join(BEFORE[n % len(BEFORE)] + KEYS[n % len(KEYS)] for n in range(24))
NESTED: dict[str, Any] = {KEYS[0]: TEXT, "list": [TEXT, {"json": json.dumps({"x": TEXT, "y": json.dumps([TEXT])})}]}
TOKEN = "agl-admin-" + "0123456789abcdef" * 3


@pytest.fixture(autouse=True)
def log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


async def test_keys_in_model_calls_are_stored_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The agent's tracer and the proxy both record every call."""
    async with agl.SqliteLightningStore(tmp_path / "agl.db") as store:
        with ScriptedModel() as model:
            async with agl.LLMProxy(model_list={"m": model.base_url}, store=store) as proxy:
                await store.add_resources({"llm": proxy.as_resource()})
                rollout = await run_agent(store, model)
        spans = list(await store.query_spans(rollout.rollout_id))
        page = render_page((await collect_run(store, limit=10))[0])
        files = await contents(tmp_path)

    assert [call.raw.count(SECRET) > 100 for call in model.calls] == [True] * 8
    names = [span.name for span in spans if span.resource.attributes["service.name"] == "agl-proxy"]
    assert {name: names.count(name) for name in names} == {
        "openai.chat.completion": 4,
        "openai.responses": 2,
        "anthropic.messages": 2,
    }
    assert files.count(b"[redacted]") > 1_000
    for where in (files, await contents(tmp_path), page.encode(), repr(spans).encode(), logged(caplog)):
        assert SECRET.encode() not in where


async def run_agent(store: agl.LightningStore, model: ScriptedModel) -> agl.Rollout:
    tool_calls = [("search", NESTED), ("look", {"text": TEXT})]

    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        async with (
            openai.AsyncOpenAI(base_url=llm.endpoint, api_key=KEYS[0], max_retries=0) as gpt,
            anthropic.AsyncAnthropic(base_url=llm.endpoint.removesuffix("/v1"), api_key=KEYS[1]) as claude,
        ):
            calls = model_calls(gpt, claude)
            for call in calls:
                model.script(*[Answer(TEXT, tool_calls=tool_calls)] * 2)
                await call(stream=False)
                async for _ in await call(stream=True):
                    pass
            model.script(Answer(TEXT, status=401), Answer(TEXT, break_after=3))
            with pytest.raises(openai.AuthenticationError):
                await calls[0](stream=False)
            with pytest.raises(openai.APIError):
                async for _ in await calls[0](stream=True):
                    pass
        agl.emit_message(TEXT)
        agl.emit_object(NESTED)
        agl.emit_annotation({"note": TEXT, KEYS[0]: 1})
        agl.emit_exception(ValueError(TEXT))
        with agl.operation(input=TEXT):
            raise RuntimeError(TEXT)

    runner = agl.LitAgentRunner[Any](agl.LightningTracer())
    with runner.run_context(agent=agent, store=store):
        return await runner.step("a task")


def model_calls(gpt: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic) -> list[Any]:
    schema: Any = {"type": "object", "properties": {}, "description": TEXT}
    function: Any = {"name": "search", "description": TEXT, "parameters": schema}
    arguments = json.dumps(NESTED)
    called = {"id": "1", "type": "function", "function": {"name": "search", "arguments": arguments}}
    chat: Any = [
        {"role": "system", "content": TEXT},
        {"role": "user", "content": [{"type": "text", "text": TEXT}]},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "1", "content": json.dumps(NESTED)},
    ]
    items: Any = [
        {"role": "user", "content": TEXT},
        {"type": "function_call", "call_id": "1", "name": "search", "arguments": arguments},
        {"type": "function_call_output", "call_id": "1", "output": json.dumps(NESTED)},
    ]
    blocks: Any = [
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "search", "input": NESTED}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": TEXT}]},
    ]

    async def call_chat(stream: bool) -> Any:
        tools: Any = [{"type": "function", "function": function}]
        return await gpt.chat.completions.create(model="m", messages=chat, tools=tools, user=TEXT, stream=stream)

    async def call_responses(stream: bool) -> Any:
        tools: Any = [{"type": "function", "strict": False, **function}]
        return await gpt.responses.create(model="m", instructions=TEXT, input=items, tools=tools, stream=stream)

    async def call_messages(stream: bool) -> Any:
        tools: Any = [{"name": "search", "description": TEXT, "input_schema": schema}]
        settings: Any = {"model": "m", "system": TEXT, "messages": blocks, "tools": tools, "max_tokens": 9}
        return await claude.messages.create(**settings, stream=stream)

    return [call_chat, call_responses, call_messages]


@pytest.mark.parametrize("media_type", ["application/json", "application/x-protobuf"])
async def test_keys_in_otlp_spans_are_stored_nowhere(tmp_path: Path, media_type: str) -> None:
    async with served_store(tmp_path) as (server, http):
        attempted = await server.start_rollout("a task")
        body = otlp_request(attempted, encode_id=media_type == "application/x-protobuf")
        content = json.dumps(body).encode()
        if media_type == "application/x-protobuf":
            content = ParseDict(body, ExportTraceServiceRequest()).SerializeToString()
        async with http.post("/v1/traces", data=content, headers={"Content-Type": media_type}) as response:
            assert (response.status, b"rejected" in await response.read()) == (200, False)
        [span] = await server.query_spans(attempted.rollout_id)
        files = await contents(tmp_path)

    assert "[redacted]" in span.name
    assert str(span).count("[redacted]") > 100
    assert SECRET.encode() not in files + await contents(tmp_path)


def otlp_request(attempted: agl.AttemptedRollout, *, encode_id: bool) -> dict[str, Any]:
    def span_id(number: str, size: int) -> str:
        return base64.b64encode(bytes.fromhex(number * size)).decode() if encode_id else number * size

    texts = {"stringValue": TEXT}
    nested = {"arrayValue": {"values": [texts, {"kvlistValue": {"values": [{"key": KEYS[0], "value": texts}]}}]}}
    attributes = [{"key": "text", "value": texts}, {"key": "nested", "value": nested}, {"key": KEYS[1], "value": texts}]
    ids = {"agentlightning.rollout_id": attempted.rollout_id, "agentlightning.attempt_id": attempted.attempt.attempt_id}
    labels = [{"key": name, "value": {"stringValue": value}} for name, value in ids.items()]
    identity = {"traceId": span_id("ab", 16), "spanId": span_id("cd", 8), "traceState": f"vendor={KEYS[0]}"}
    span = {
        **identity,
        "name": TEXT,
        "attributes": attributes,
        "events": [{"name": TEXT, "attributes": attributes}],
        "links": [{**identity, "attributes": attributes}],
        "status": {"code": 2, "message": TEXT},
    }
    scope = {"scope": {"name": TEXT, "attributes": attributes}, "schemaUrl": TEXT, "spans": [span]}
    resource = {"attributes": [*labels, *attributes]}
    return {"resourceSpans": [{"resource": resource, "schemaUrl": TEXT, "scopeSpans": [scope]}]}


@pytest.mark.parametrize("escape", ["none", "s", "-", "P"])
async def test_keys_in_posted_spans_are_stored_nowhere(tmp_path: Path, escape: str) -> None:
    """Every `escape` in the texts is written as an escape sequence."""
    parts = {"name": TEXT, "attributes": NESTED}
    async with served_store(tmp_path) as (server, http):
        attempted = await server.start_rollout("a task")
        span = {
            "rollout_id": attempted.rollout_id,
            "attempt_id": attempted.attempt.attempt_id,
            "trace_id": "ab" * 16,
            "span_id": "cd" * 8,
            **parts,
            "status": {"status_code": "ERROR", "description": TEXT},
            "events": [parts],
            "links": [{"context": {"trace_id": "1", "span_id": "2", "trace_state": {"a": TEXT}}, "attributes": NESTED}],
            "resource": {"attributes": NESTED, "schema_url": TEXT},
        }
        text = json.dumps(TEXT)
        body = json.dumps({"span": span}).replace(text, text.replace(escape, f"\\u{ord(escape[0]):04x}"))
        async with http.post("/add_span", data=body, headers={"Content-Type": "application/json"}) as response:
            assert response.status == 200, await response.text()
        files = await contents(tmp_path)

    assert SECRET.encode() not in files + await contents(tmp_path)


async def test_id_that_looks_like_a_key_is_refused(tmp_path: Path) -> None:
    async with agl.SqliteLightningStore(tmp_path / "agl.db") as store:
        attempted = await store.start_rollout("a task")
        ids: Any = {"rollout_id": attempted.rollout_id, "attempt_id": attempted.attempt.attempt_id}
        with pytest.raises(InvalidInput, match="trace_id looks like an API key"):
            await store.add_span(agl.Span.from_attributes(name="a", attributes={}, trace_id=KEYS[0], **ids))

    assert SECRET.encode() not in await contents(tmp_path)


async def test_keys_are_in_no_file_of_the_disk_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_SPOOL_DIR", str(tmp_path))
    tracer = agl.OtelTracer()
    async with tracer.trace_context(TEXT):
        agl.emit_object(NESTED)
        agl.emit_exception(ValueError(TEXT))
    report = AttemptReport("ro-1", "at-1", "failed", outcome_of_error(ValueError(TEXT)).metadata)
    items = [*(FinishedSpan(span, "ro-1", "at-1") for span in tracer.get_last_trace()), report]
    async with agl.LightningStoreClient("http://127.0.0.1:1") as client:
        exporter = SpanExporter(client)
        assert exporter.buffer(SpanBatch.from_items(items, DropCounter()))
        await exporter.stop()
        buffered = await contents(tmp_path)

    assert buffered.count(b"[redacted]") > 3 * len(KEYS)
    assert SECRET.encode() not in buffered


@asynccontextmanager
async def served_store(folder: Path) -> AsyncGenerator[tuple[agl.LightningStoreServer, aiohttp.ClientSession]]:
    server = agl.LightningStoreServer(agl.SqliteLightningStore(folder / "agl.db"), port=0, token=TOKEN)
    await server.start()
    try:
        async with aiohttp.ClientSession(server.endpoint, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            yield server, http
    finally:
        await server.close()
    assert TOKEN.encode() not in await contents(folder)


def logged(caplog: pytest.LogCaptureFixture) -> bytes:
    """Return the lines of this package, but not those of the SDKs, which log requests at the level DEBUG."""
    ours = [record for record in caplog.records if record.name.startswith("agentlightning")]
    return "\n".join(caplog.handler.format(record) for record in ours).encode()


async def contents(folder: Path) -> bytes:
    """Return the contents of all files in the folder, such as a database and its write-ahead log."""
    paths = await asyncio.to_thread(lambda: [path for path in folder.rglob("*") if path.is_file()])
    return b"".join(path.read_bytes() for path in paths)
