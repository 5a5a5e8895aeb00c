"""Who may ask, in whose name, and that keys stay where they belong."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

import agentlightning as agl
from agentlightning.llm_proxy import Upstream
from tests.scripted_model import Answer, ScriptedModel

from .conftest import started

HELLO = [{"role": "user", "content": "Hello"}]
TOKEN = "a-token-of-more-than-128-bits"
PLANTED = "sk-planted-0123456789abcdef"


async def status(url: str, *, key: str | None = None, **headers: str) -> int:
    sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/chat/completions", json={"model": "m", "messages": HELLO}, headers=sent) as response,
    ):
        return response.status


async def test_an_agent_can_only_speak_for_its_own_attempt(model: ScriptedModel, store: agl.LightningStore):
    mine, other = await started(store), await started(store)
    async with agl.LLMProxy(model_list={"m": model.base_url}, store=store, token=TOKEN) as proxy:
        llm = proxy.as_resource(mine.rollout_id, mine.attempt_id)

        assert await status(llm.endpoint, key=llm.api_key) == 200
        assert await status(other.url(proxy), key=llm.api_key) == 401
        assert await status(proxy.endpoint, key=llm.api_key) == 401
        assert await status(llm.endpoint) == 401
        assert await status(llm.endpoint, key="wrong") == 401
        assert await status(other.url(proxy), key=TOKEN) == 200

    assert (len(await mine.spans()), len(await other.spans())) == (1, 1)


async def test_a_runner_gives_each_agent_the_key_of_its_attempt(model: ScriptedModel, store: agl.LightningStore):
    attempted = await store.start_rollout("a task")
    async with agl.LLMProxy(model_list={"m": model.base_url}, store=store, token=TOKEN) as proxy:
        resource = proxy.as_resource()
        assert isinstance(resource, agl.ProxyLLM)
        llm = resource.with_attempted_rollout(attempted)

        assert llm.api_key == proxy.attempt_token(attempted.rollout_id, attempted.attempt.attempt_id)
        assert llm.api_key not in (TOKEN, resource.api_key)
        async with openai.AsyncOpenAI(base_url=llm.get_base_url(), api_key=llm.api_key) as client:
            await client.chat.completions.create(model=llm.model, messages=HELLO)

    assert len(await store.query_spans(attempted.rollout_id)) == 1


async def test_anthropics_way_of_sending_a_key_is_understood(model: ScriptedModel):
    async with agl.LLMProxy(model_list={"m": model.base_url}, token=TOKEN) as proxy:
        assert await status(proxy.endpoint, **{"x-api-key": TOKEN}) == 200


def _everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_keys_reach_the_server_and_nothing_else(
    model: ScriptedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    database = tmp_path / "agl.db"
    upstream = Upstream(name="m", url=model.base_url, api_key=PLANTED, retries=0)
    model.script("fine", Answer(f"Incorrect API key provided: {PLANTED}", status=401))
    async with (
        agl.SqliteLightningStore(str(database)) as store,
        agl.LLMProxy(model_list=[upstream], store=store, token=TOKEN) as proxy,
    ):
        attempt = await started(store)
        llm = proxy.as_resource(attempt.rollout_id, attempt.attempt_id)
        assert await status(llm.endpoint, key=llm.api_key) == 200
        assert await status(llm.endpoint, key=llm.api_key) == 401
        assert len(await attempt.spans()) == 2
        secrets = [PLANTED, TOKEN, str(llm.api_key), str(proxy.as_resource().api_key)]

    assert model.calls[0].headers["authorization"] == f"Bearer {PLANTED}"
    written = _everything_in(tmp_path) + caplog.text.encode() + repr(upstream).encode()
    assert b"Incorrect API key provided: [redacted]" in written
    for secret in secrets:
        assert secret.encode() not in written


@pytest.mark.parametrize(
    ("kind", "header", "value"),
    [
        ("openai", "authorization", f"Bearer {PLANTED}"),
        ("anthropic", "x-api-key", PLANTED),
        ("azure", "api-key", PLANTED),
    ],
)
async def test_each_kind_of_server_gets_its_key_its_own_way(model: ScriptedModel, kind: Any, header: str, value: str):
    upstream = Upstream(name="m", url=model.base_url, api_key=PLANTED, kind=kind)
    async with agl.LLMProxy(model_list=[upstream]) as proxy:
        assert await status(proxy.endpoint, key="the agents own") == 200

    headers = model.calls[0].headers
    assert headers[header] == value
    assert "the agents own" not in str(headers)


async def test_an_open_proxy_hands_the_agents_own_key_to_a_server_it_has_none_for(model: ScriptedModel):
    async with agl.LLMProxy(model_list={"m": model.base_url}) as proxy:
        await status(proxy.endpoint, key="the agents own", cookie="secret=1")

    assert model.calls[0].headers["authorization"] == "Bearer the agents own"
    assert "cookie" not in model.calls[0].headers


async def test_a_locked_proxy_never_hands_its_own_token_to_a_server(model: ScriptedModel):
    async with agl.LLMProxy(model_list={"m": model.base_url}, token=TOKEN) as proxy:
        assert await status(proxy.endpoint, key=TOKEN) == 200

    assert "authorization" not in model.calls[0].headers


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}]
)
async def test_web_pages_cannot_use_a_proxy_on_this_machine(proxy: agl.LLMProxy, headers: dict[str, str]):
    assert await status(proxy.endpoint, **headers) == 403


def test_beyond_this_machine_a_token_is_required():
    with pytest.raises(ValueError, match="requires a token"):
        agl.LLMProxy(host="0.0.0.0")
    with pytest.raises(ValueError, match="too short"):
        agl.LLMProxy(token="short")


async def test_ids_with_any_character_are_read_from_the_address(model: ScriptedModel, store: agl.LightningStore):
    from agentlightning.llm_proxy.auth import parse_target

    address = parse_target("/rollout/a%2Fb/attempt/c%20d/v1/chat/completions")

    assert (address.rollout_id, address.attempt_id, address.path) == ("a/b", "c d", "chat/completions")


async def test_a_body_that_is_too_large_is_refused(proxy: agl.LLMProxy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agentlightning.llm_proxy.app.MAX_BODY", 10)

    assert await status(proxy.endpoint) == 413


async def test_only_an_attempts_url_can_be_made_with_one_id_missing(proxy: agl.LLMProxy):
    with pytest.raises(ValueError, match="both"):
        proxy.as_resource(rollout_id="ro-1")


async def test_attempt_keys_are_not_confused_by_where_one_id_ends(model: ScriptedModel):
    proxy = agl.LLMProxy(token=TOKEN)

    assert proxy.attempt_token("a", "b/c") != proxy.attempt_token("a/b", "c")
