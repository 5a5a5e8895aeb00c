"""A planted API key appears in no span, no log line and no byte of the database, by whichever path it arrives.

Through the proxy: tests/llm_proxy/test_security.py. Through programs: tests/command_agent/test_any_language.py.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

import agentlightning as agl
from tests.scripted_model import Answer, ScriptedModel

PLANTED = "sk-planted-0123456789abcdef"
TOKEN = "agl-admin-" + "0123456789abcdef" * 3


async def test_planted_key_is_stored_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = agl.SqliteLightningStore(tmp_path / "agl.db")
    server = agl.LightningStoreServer(store, port=0, token=TOKEN)
    await server.start()
    with ScriptedModel() as model:
        model.script("fine", Answer(f"Incorrect API key provided: {PLANTED}", status=401))
        async with agl.LightningStoreClient(server.endpoint, token=TOKEN) as client:
            rollout = await through_an_sdk(client, model)
            await over_otlp(server, rollout)
            spans = list(await client.query_spans(rollout.rollout_id))
    await server.close()

    assert model.calls[0].headers["authorization"] == f"Bearer {PLANTED}"
    assert {"openai.chat.completion", "agentlightning.message", "remote"} <= {span.name for span in spans}
    stored = b"".join(path.read_bytes() for path in await asyncio.to_thread(lambda: list(tmp_path.iterdir())))
    assert b"Incorrect API key provided: [redacted]" in stored
    for where in (stored, caplog.text.encode(), repr(spans).encode()):
        assert b"sk-planted" not in where
        assert TOKEN.encode() not in where


async def through_an_sdk(store: agl.LightningStore, model: ScriptedModel) -> agl.Rollout:
    @agl.rollout
    async def agent(task: str) -> float:
        request: Any = {"model": "m", "messages": [{"role": "user", "content": f"My key is {PLANTED}."}]}
        async with openai.AsyncOpenAI(base_url=model.base_url, api_key=PLANTED, max_retries=0) as client:
            await client.chat.completions.create(**request)
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(**request)
        agl.emit_message(f"Authorization: Bearer {PLANTED}")
        agl.emit_object({"headers": {"x-api-key": PLANTED}})
        agl.emit_exception(ValueError(f"no such key: {PLANTED}"))
        return 1.0

    runner = agl.LitAgentRunner[Any](agl.LightningTracer())
    with runner.run_context(agent=agent, store=store):
        return await runner.step("a task")


async def over_otlp(server: agl.LightningStoreServer, rollout: agl.Rollout) -> None:
    attempt = await server.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None

    def pairs(**attributes: str) -> list[dict[str, Any]]:
        return [{"key": name.replace("__", "."), "value": {"stringValue": value}} for name, value in attributes.items()]

    span = {
        "traceId": "ab" * 16,
        "spanId": "cd" * 8,
        "name": "remote",
        "attributes": pairs(key=PLANTED, header=f"Bearer%20{PLANTED}"),
        "events": [{"name": f"used {PLANTED}", "attributes": pairs(key=PLANTED)}],
        "status": {"code": 2, "message": f"refused {PLANTED}"},
    }
    ids = {"agentlightning__rollout_id": rollout.rollout_id, "agentlightning__attempt_id": attempt.attempt_id}
    resource = {"attributes": pairs(**ids, process__command=f"curl -H key:{PLANTED}")}
    body = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{server.endpoint}/v1/traces", json=body) as response,
    ):
        assert await response.json() == {}
