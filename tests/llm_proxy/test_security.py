"""Authentication of the proxy's requests, and API keys."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

import agentlightning as agl
from agentlightning.http.limits import Limits
from agentlightning.llm_proxy import Upstream
from agentlightning.llm_proxy.auth import parse_target
from tests.scripted_model import Answer, ScriptedModel

from .conftest import HELLO, post_chat, start_attempt

TOKEN = "a-token-of-more-than-128-bits"
UPSTREAM_KEY = "sk-planted-0123456789abcdef"


async def status(url: str, *, key: str | None = None, **headers: str) -> int:
    authorization = {"Authorization": f"Bearer {key}"} if key else {}
    return (await post_chat(url, headers={**authorization, **headers}))[0]


async def test_attempt_token_is_valid_for_its_attempt_only(model: ScriptedModel, store: agl.LightningStore):
    own, other = await start_attempt(store), await start_attempt(store)
    async with agl.LLMProxy(model_list={"m": model.base_url}, store=store, token=TOKEN) as proxy:
        llm = proxy.as_resource(own.rollout_id, own.attempt_id)

        assert await status(llm.endpoint, key=llm.api_key) == 200
        assert await status(other.url(proxy), key=llm.api_key) == 401
        assert await status(proxy.endpoint, key=llm.api_key) == 401
        assert await status(llm.endpoint) == 401
        assert await status(llm.endpoint, key="wrong") == 401
        assert await status(other.url(proxy), key=TOKEN) == 200
        assert await status(proxy.endpoint, **{"x-api-key": TOKEN}) == 200  # as Anthropic's SDK sends it

    assert (len(await own.spans()), len(await other.spans())) == (1, 1)
    assert "authorization" not in model.calls[0].headers  # the proxy's token is not for the server


async def test_attempt_token_expires_after_the_end_of_its_attempt(model: ScriptedModel, store: agl.LightningStore):
    attempt = await start_attempt(store)
    limits = Limits(attempt_token_seconds=0)
    async with agl.LLMProxy(model_list={"m": model.base_url}, store=store, token=TOKEN, limits=limits) as proxy:
        llm = proxy.as_resource(attempt.rollout_id, attempt.attempt_id)
        deleted = proxy.as_resource("ro-deleted", "at-deleted")
        await store.update_attempt(attempt.rollout_id, attempt.attempt_id, status="succeeded")

        assert await status(llm.endpoint, key=llm.api_key) == 401
        assert await status(deleted.endpoint, key=deleted.api_key) == 401
        assert await status(llm.endpoint, key=TOKEN) == 200


async def test_runner_gives_each_agent_the_token_of_its_attempt(model: ScriptedModel, store: agl.LightningStore):
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


def _read_all(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_keys_reach_the_server_but_neither_store_nor_log(
    model: ScriptedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    upstream = Upstream(name="m", url=model.base_url, api_key=UPSTREAM_KEY, retries=0)
    model.script("fine", Answer(f"Incorrect API key provided: {UPSTREAM_KEY}", status=401))
    async with (
        agl.SqliteLightningStore(str(tmp_path / "agl.db")) as store,
        agl.LLMProxy(model_list=[upstream], store=store, token=TOKEN) as proxy,
    ):
        attempt = await start_attempt(store)
        llm = proxy.as_resource(attempt.rollout_id, attempt.attempt_id)
        assert await status(llm.endpoint, key=llm.api_key) == 200
        assert await status(llm.endpoint, key=llm.api_key) == 401
        assert len(await attempt.spans()) == 2
        secrets = [UPSTREAM_KEY, TOKEN, str(llm.api_key), str(proxy.as_resource().api_key)]

    assert model.calls[0].headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    written = _read_all(tmp_path) + caplog.text.encode() + repr(upstream).encode()
    assert b"Incorrect API key provided: [redacted]" in written
    assert [secret for secret in secrets if secret.encode() in written] == []


@pytest.mark.parametrize(
    ("kind", "header", "value"),
    [
        ("openai", "authorization", f"Bearer {UPSTREAM_KEY}"),
        ("anthropic", "x-api-key", UPSTREAM_KEY),
        ("azure", "api-key", UPSTREAM_KEY),
    ],
)
async def test_each_kind_of_server_gets_its_key_in_its_header(model: ScriptedModel, kind: Any, header: str, value: str):
    upstream = Upstream(name="m", url=model.base_url, api_key=UPSTREAM_KEY, kind=kind)
    async with agl.LLMProxy(model_list=[upstream]) as proxy:
        assert await status(proxy.endpoint, key="agents-own-key") == 200

    headers = model.calls[0].headers
    assert headers[header] == value
    assert "agents-own-key" not in str(headers)


async def test_proxy_without_token_forwards_the_agents_key_to_a_server_without_one(
    model: ScriptedModel, proxy: agl.LLMProxy
):
    await status(proxy.endpoint, key="agents-own-key", cookie="secret=1")

    assert model.calls[0].headers["authorization"] == "Bearer agents-own-key"
    assert "cookie" not in model.calls[0].headers


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}]
)
async def test_requests_from_web_pages_are_forbidden(proxy: agl.LLMProxy, headers: dict[str, str]):
    assert await status(proxy.endpoint, **headers) == 403


def test_proxy_that_others_can_reach_requires_a_long_token():
    with pytest.raises(ValueError, match="requires a token"):
        agl.LLMProxy(host="0.0.0.0")
    with pytest.raises(ValueError, match="too short"):
        agl.LLMProxy(token="short")


def test_ids_in_a_url_are_percent_decoded():
    target = parse_target("/rollout/a%2Fb/attempt/c%20d/v1/chat/completions")

    assert (target.rollout_id, target.attempt_id, target.path) == ("a/b", "c d", "chat/completions")


async def test_body_beyond_the_limit_is_refused(model: ScriptedModel):
    async with agl.LLMProxy(model_list={"m": model.base_url}, limits=Limits(body=10)) as proxy:
        assert await status(proxy.endpoint) == 413


def test_attempt_tokens_differ_if_only_the_boundary_of_the_ids_differs():
    proxy = agl.LLMProxy(token=TOKEN)

    assert proxy.attempt_token("a", "b/c") != proxy.attempt_token("a/b", "c")


async def test_wrong_key_gets_401_before_the_body_is_sent(store: agl.LightningStore):
    own, other = await start_attempt(store), await start_attempt(store)
    async with agl.LLMProxy(model_list={"m": "http://127.0.0.1:1/v1"}, store=store, token=TOKEN) as proxy:
        url = urlsplit(own.url(proxy))
        for key in ("agl-attempt-x", proxy.attempt_token(other.rollout_id, other.attempt_id), TOKEN[:-1]):
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            head = f"POST {url.path}/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\nx-api-key: {key}\r\n"
            writer.write(f"{head}Content-Length: 60000000\r\n\r\n".encode())

            assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)).startswith(b"HTTP/1.1 401"), key
            writer.close()
