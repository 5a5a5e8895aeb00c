"""The proxy's own life: started, stopped, restarted, and a store that goes away meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import openai
import pytest

import agentlightning as agl
from agentlightning.llm_proxy import recording
from tests.scripted_model import Answer, ScriptedModel

from .conftest import Attempt, started

HELLO = [{"role": "user", "content": "Hello"}]


async def ask(url: str) -> str | None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO)
        return answer.choices[0].message.content


async def test_it_runs_from_start_to_stop_and_again_at_the_same_port(model: ScriptedModel):
    proxy = agl.LLMProxy(model_list={"m": model.base_url})
    assert not proxy.is_running()

    await proxy.start()
    await proxy.start()
    port = proxy.port
    assert proxy.is_running()
    assert await ask(proxy.endpoint) == "You said: Hello"
    await proxy.restart()
    assert (proxy.port, await ask(proxy.endpoint)) == (port, "You said: Hello")
    await proxy.stop()
    await proxy.stop()

    assert not proxy.is_running()
    with pytest.raises(openai.APIConnectionError):
        await ask(proxy.endpoint)


async def test_a_restart_can_bring_other_models(model: ScriptedModel):
    proxy = agl.LLMProxy(model_list={"old": "http://127.0.0.1:9"})
    await proxy.start()
    await proxy.restart({"m": model.base_url})

    assert await ask(proxy.endpoint) == "You said: Hello"
    await proxy.stop()


async def test_a_call_under_way_comes_to_its_end_when_it_is_stopped(store: agl.LightningStore, attempt: Attempt):
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()

    def answer(_question: str) -> Answer:
        loop.call_soon_threadsafe(arrived.set)
        return Answer("late", delay=0.5)

    with ScriptedModel(answer) as slow:
        proxy = agl.LLMProxy(model_list={"m": slow.base_url}, store=store)
        await proxy.start()
        under_way = asyncio.create_task(ask(attempt.url(proxy)))
        await arrived.wait()

        await proxy.stop()

        assert await under_way == "late"
    assert len(await attempt.spans()) == 1


async def test_a_port_that_is_taken_is_named():
    async with agl.LLMProxy() as first:
        with pytest.raises(ConnectionError, match=f"cannot listen on 127.0.0.1:{first.port}"):
            await agl.LLMProxy(port=first.port).start()


def test_it_is_a_resource_for_all_attempts_or_for_one():
    proxy = agl.LLMProxy(port=4748, model_list={"m": "http://gpu:8000"})

    assert proxy.as_resource(sampling_parameters={"temperature": 1}) == agl.ProxyLLM(
        endpoint="http://127.0.0.1:4748/v1", model="m", sampling_parameters={"temperature": 1}
    )
    assert proxy.as_resource("ro-1", "at-1") == agl.LLM(
        endpoint="http://127.0.0.1:4748/rollout/ro-1/attempt/at-1/v1", model="m"
    )


def test_a_resource_of_several_models_says_which():
    proxy = agl.LLMProxy(model_list={"a": "http://gpu:1", "b": "http://gpu:2"})

    assert proxy.as_resource(model="b").model == "b"
    with pytest.raises(ValueError, match="has a, b"):
        proxy.as_resource()


class Away(agl.InMemoryLightningStore):
    """A store that is away until it is told to be there."""

    there = False

    async def add_many_spans(self, spans: Any) -> Any:
        if not self.there:
            raise ConnectionError("away")
        return await super().add_many_spans(spans)


async def test_a_store_that_is_away_holds_calls_up_a_while_and_loses_none(
    model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recording, "STORE_TIMEOUT", 0.2)
    async with Away() as store, agl.LLMProxy(model_list={"m": model.base_url}, store=store) as proxy:
        attempt = await started(store)
        assert await ask(attempt.url(proxy)) == "You said: Hello"
        assert await attempt.spans() == []

        store.there = True
        await proxy.stop()

        assert len(await attempt.spans()) == 1


async def test_a_store_may_be_given_while_it_runs(model: ScriptedModel, store: agl.LightningStore, attempt: Attempt):
    async with agl.LLMProxy(model_list={"m": model.base_url}) as proxy:
        await ask(attempt.url(proxy))
        proxy.store = store
        await ask(attempt.url(proxy))

    assert len(await attempt.spans()) == 1


async def test_it_records_into_a_store_that_is_served_elsewhere(model: ScriptedModel):
    async with agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0) as server:
        await server.start()
        async with (
            agl.LightningStoreClient(server.endpoint) as client,
            agl.LLMProxy(model_list={"m": model.base_url}, store=agl.LightningStoreClient(server.endpoint)) as proxy,
        ):
            attempt = await started(client)
            await ask(attempt.url(proxy))

            assert len(await attempt.spans()) == 1


async def test_five_hundred_streams_at_once_all_arrive(model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt):
    body = {"model": "m", "messages": HELLO, "stream": True}

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def stream() -> bytes:
            async with session.post(f"{attempt.url(proxy)}/chat/completions", json=body) as response:
                return await response.read()

        streams = await asyncio.gather(*(stream() for _ in range(500)))

    assert all(stream.endswith(b"data: [DONE]\n\n") for stream in streams)
    assert len(await attempt.spans()) == 500
