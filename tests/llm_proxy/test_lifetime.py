"""Start, stop and restart of the proxy, and an unreachable store."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import openai
import pytest

import agentlightning as agl
from agentlightning.llm_proxy import recording
from tests.scripted_model import Answer, ScriptedModel

from .conftest import HELLO, ProxyAttempt, post_chat, start_attempt


async def ask(url: str) -> str | None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        response = await client.chat.completions.create(model="m", messages=HELLO)
        return response.choices[0].message.content


async def test_proxy_starts_stops_and_restarts_at_the_same_port(model: ScriptedModel):
    proxy = agl.LLMProxy(model_list={"m": model.base_url})
    assert not proxy.is_running()

    await proxy.start()
    await proxy.start()
    port = proxy.port
    assert proxy.is_running()
    assert await ask(proxy.endpoint) == "You said: Hello"
    await proxy.restart()
    assert (proxy.port, await ask(proxy.endpoint)) == (port, "You said: Hello")
    await proxy.restart({"other": model.base_url})
    assert [upstream.name for upstream in proxy.model_list] == ["other"]
    with pytest.raises(openai.NotFoundError):
        await ask(proxy.endpoint)
    await proxy.stop()
    await proxy.stop()

    assert not proxy.is_running()
    with pytest.raises(openai.APIConnectionError):
        await ask(proxy.endpoint)


async def test_stop_waits_for_calls_in_flight(store: agl.LightningStore, attempt: ProxyAttempt):
    with ScriptedModel(lambda _: Answer("late", delay=0.2)) as slow:
        proxy = agl.LLMProxy(model_list={"m": slow.base_url}, store=store)
        await proxy.start()
        in_flight = asyncio.create_task(ask(attempt.url(proxy)))
        await slow.wait_for_calls(1)

        await proxy.stop()

        assert await in_flight == "late"
    assert len(await attempt.spans()) == 1


async def test_port_in_use_is_named():
    async with agl.LLMProxy() as first:
        with pytest.raises(ConnectionError, match=f"cannot listen on 127.0.0.1:{first.port}"):
            await agl.LLMProxy(port=first.port).start()


def test_resource_is_for_all_attempts_or_for_one():
    proxy = agl.LLMProxy(port=4748, model_list={"m": "http://gpu:8000"})

    assert proxy.as_resource(sampling_parameters={"temperature": 1}) == agl.ProxyLLM(
        endpoint="http://127.0.0.1:4748/v1", model="m", sampling_parameters={"temperature": 1}
    )
    assert proxy.as_resource("ro-1", "at-1") == agl.LLM(
        endpoint="http://127.0.0.1:4748/rollout/ro-1/attempt/at-1/v1", model="m"
    )
    with pytest.raises(ValueError, match="both"):
        proxy.as_resource(rollout_id="ro-1")


def test_resource_of_several_models_requires_a_choice():
    proxy = agl.LLMProxy(model_list={"a": "http://gpu:1", "b": "http://gpu:2"})

    assert proxy.as_resource(model="b").model == "b"
    with pytest.raises(ValueError, match="models of this proxy are: a, b"):
        proxy.as_resource()


class UnreachableStore(agl.InMemoryLightningStore):
    """A store that takes no spans until `is_reachable`."""

    is_reachable = False

    async def add_many_spans(self, spans: Any) -> Any:
        if not self.is_reachable:
            raise ConnectionError("unreachable")
        return await super().add_many_spans(spans)


async def test_unreachable_store_delays_calls_and_gets_their_spans_later(
    model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recording, "STORE_TIMEOUT", 0.1)
    async with UnreachableStore() as store, agl.LLMProxy(model_list={"m": model.base_url}, store=store) as proxy:
        attempt = await start_attempt(store)
        assert await ask(attempt.url(proxy)) == "You said: Hello"
        assert await attempt.spans() == []

        store.is_reachable = True
        await proxy.stop()

        assert len(await attempt.spans()) == 1


async def test_store_can_be_set_while_the_proxy_runs(
    model: ScriptedModel, store: agl.LightningStore, attempt: ProxyAttempt
):
    async with agl.LLMProxy(model_list={"m": model.base_url}) as proxy:
        await post_chat(attempt.url(proxy))
        proxy.store = store
        await post_chat(attempt.url(proxy))

    assert len(await attempt.spans()) == 1


async def test_calls_are_recorded_in_a_store_over_http(model: ScriptedModel):
    async with agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0) as server:
        await server.start()
        async with (
            agl.LightningStoreClient(server.endpoint) as client,
            agl.LLMProxy(model_list={"m": model.base_url}, store=agl.LightningStoreClient(server.endpoint)) as proxy,
        ):
            attempt = await start_attempt(client)
            await post_chat(attempt.url(proxy))

            assert len(await attempt.spans()) == 1


async def test_one_hundred_concurrent_streams_all_arrive(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    body = {"model": "m", "messages": HELLO, "stream": True}

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def stream() -> bytes:
            async with session.post(f"{attempt.url(proxy)}/chat/completions", json=body) as response:
                return await response.read()

        streams = await asyncio.gather(*(stream() for _ in range(100)))

    assert all(stream.endswith(b"data: [DONE]\n\n") for stream in streams)
    assert len(await attempt.spans()) == 100
