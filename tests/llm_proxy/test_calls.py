"""Calls through the proxy, for every API, streamed or not: the agent gets the response, and the call is recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import openai
import pytest

import agentlightning as agl
from tests.processes import TIMEOUT
from tests.scripted_model import Answer, ScriptedModel

from .conftest import HELLO, ProxyAttempt, chunk, post_chat, serve_app, start_attempt, start_stream, upstream


async def test_chat_is_answered_and_recorded(model: ScriptedModel, proxy: agl.LLMProxy, attempt: ProxyAttempt):
    async with attempt.openai(proxy) as client:
        response = await client.chat.completions.create(model="m", messages=HELLO, temperature=0.5)

    call = await attempt.call()
    assert response.choices[0].message.content == "You said: Hello"
    assert call.messages == HELLO
    assert call.output == [{"role": "assistant", "content": "You said: Hello"}]
    assert (call.model, call.response_id, call.parameters) == ("m", response.id, {"temperature": 0.5})
    assert model.calls[0].body == {"model": "m", "messages": HELLO, "temperature": 0.5}


async def test_responses_api_is_recorded_with_and_without_streaming(proxy: agl.LLMProxy, attempt: ProxyAttempt):
    async with attempt.openai(proxy) as client:
        whole = await client.responses.create(model="m", input="Hello", instructions="Be brief.")
        stream = await client.responses.create(model="m", input="Hello", stream=True)
        events = [event.type async for event in stream]

    first, second = await attempt.calls()
    assert whole.output_text == first.output[0]["content"] == second.output[0]["content"] == "You said: Hello"
    assert first.messages[0] == {"role": "system", "content": "Be brief."}
    assert events[-1] == "response.completed"


async def test_anthropic_messages_are_recorded_with_and_without_streaming(proxy: agl.LLMProxy, attempt: ProxyAttempt):
    async with attempt.anthropic(proxy) as client:
        whole = await client.messages.create(model="m", messages=HELLO, max_tokens=9)
        async with client.messages.stream(model="m", messages=HELLO, max_tokens=9) as stream:
            text = "".join([part async for part in stream.text_stream])

    first, second = await attempt.calls()
    block: Any = whole.content[0]
    assert block.text == text == first.output[0]["content"] == second.output[0]["content"]
    assert second.finish_reason == "stop"


async def test_completions_and_embeddings_are_answered_and_recorded(proxy: agl.LLMProxy, attempt: ProxyAttempt):
    async with attempt.openai(proxy) as client:
        completion = await client.completions.create(model="m", prompt="Hello")
        stream = await client.completions.create(model="m", prompt="Hello", stream=True)
        text = "".join([part.choices[0].text async for part in stream])
        embedded = await client.embeddings.create(model="m", input="Hello", encoding_format="float")

    calls = await attempt.calls()
    assert completion.choices[0].text == text == calls[1].output[0]["content"]
    assert embedded.data[0].embedding == [0.0, 0.5, 1.0]
    assert [call.operation for call in calls] == ["text_completion", "text_completion", "embeddings"]


async def test_tool_calls_are_recorded_with_and_without_streaming(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    answer = Answer(tool_calls=[("add", {"a": 2, "b": 3})])
    model.script(answer, answer)

    async with attempt.openai(proxy) as client:
        await client.chat.completions.create(model="m", messages=HELLO)
        async with client.chat.completions.stream(model="m", messages=HELLO) as stream:
            final = await stream.get_final_completion()

    assert final.choices[0].message.tool_calls[0].function.arguments == '{"a": 2, "b": 3}'
    functions = [call.output[0]["tool_calls"][0]["function"] for call in await attempt.calls()]
    assert functions == [{"name": "add", "arguments": '{"a": 2, "b": 3}'}] * 2


async def test_streamed_chat_has_the_servers_own_bytes_and_is_recorded(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    _, direct = await post_chat(model.base_url, stream=True)
    _, forwarded = await post_chat(attempt.url(proxy), stream=True)

    assert forwarded == direct.replace(b"chatcmpl-1", b"chatcmpl-2")
    call = await attempt.call()
    assert (call.output[0]["content"], call.finish_reason) == ("You said: Hello", "stop")


class BlockedStore(agl.InMemoryLightningStore):
    """A store that writes spans only once the test unblocks it."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.called, self.unblocked = asyncio.Event(), asyncio.Event()

    async def add_many_spans(self, spans: Any) -> Any:
        self._loop.call_soon_threadsafe(self.called.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.unblocked.wait(), self._loop))
        return await super().add_many_spans(spans)


@pytest.mark.parametrize("stream", [False, True])
async def test_response_ends_only_after_its_span_can_be_queried(model: ScriptedModel, stream: bool):
    async with BlockedStore() as store, agl.LLMProxy(model_list={"m": model.base_url}, store=store) as proxy:
        attempt = await start_attempt(store)
        received = bytearray()

        async def read() -> None:
            body = {"model": "m", "messages": HELLO, "stream": stream}
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{attempt.url(proxy)}/chat/completions", json=body) as response,
            ):
                async for part in response.content.iter_any():
                    received.extend(part)

        reading = asyncio.create_task(read())
        await store.called.wait()
        await asyncio.wait({reading}, timeout=0.2)  # long enough for bytes that the proxy had sent too early
        assert not reading.done()
        assert (b"Hello" in received) is stream
        assert b"[DONE]" not in received

        store.unblocked.set()
        await reading
        assert len(await attempt.spans()) == 1


async def test_stream_reaches_the_agent_while_the_server_still_responds(proxy: agl.LLMProxy, attempt: ProxyAttempt):
    loop, first_received = asyncio.get_running_loop(), asyncio.Event()

    async def server(_scope: Any, receive: Any, send: Any) -> None:
        await start_stream(receive, send)
        await send(chunk("one"))
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(first_received.wait(), loop))
        await send(chunk("two"))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async with serve_app(server) as url, asyncio.timeout(TIMEOUT):
        proxy.update_model_list([upstream(url)])
        async with attempt.openai(proxy) as client:
            stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
            texts = []
            async for part in stream:
                texts.append(part.choices[0].delta.content)
                first_received.set()

    assert texts == ["one", "two"]


async def test_disconnect_of_the_agent_cancels_the_call_and_records_its_start(
    proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    loop, cancelled = asyncio.get_running_loop(), asyncio.Event()

    async def endless(_scope: Any, receive: Any, send: Any) -> None:
        await start_stream(receive, send)
        disconnected = asyncio.ensure_future(receive())
        while not disconnected.done():
            await send(chunk("x"))
            await asyncio.wait({disconnected}, timeout=0.01)
        loop.call_soon_threadsafe(cancelled.set)

    async with serve_app(endless) as url:
        proxy.update_model_list([upstream(url)])
        async with aiohttp.ClientSession() as session:
            body = {"model": "m", "messages": HELLO, "stream": True}
            async with session.post(f"{attempt.url(proxy)}/chat/completions", json=body) as response:
                await response.content.readany()
                response.close()
        await asyncio.wait_for(cancelled.wait(), TIMEOUT)

    await proxy.pause()  # returns when the call has ended
    [span] = await attempt.spans()
    assert span.attributes["agentlightning.incomplete"] is True
    assert (await attempt.call()).output[0]["content"].startswith("x")


async def test_error_of_the_server_is_returned_and_recorded(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    model.script(Answer("too long", status=400))

    async with attempt.openai(proxy) as client:
        with pytest.raises(openai.BadRequestError, match="too long"):
            await client.chat.completions.create(model="m", messages=HELLO)

    assert (await attempt.call()).error == "HTTP 400: too long"


async def test_temporary_error_of_the_server_is_retried(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    model.script(Answer(status=503), Answer(status=500), "success")

    async with attempt.openai(proxy) as client:
        response = await client.chat.completions.create(model="m", messages=HELLO)

    assert response.choices[0].message.content == "success"
    assert (await attempt.call()).output[0]["content"] == "success"
    assert len(model.calls) == 3


async def test_broken_stream_is_broken_for_the_agent_and_recorded(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    model.script(Answer("one two three four", break_after=3))

    with pytest.raises(aiohttp.ClientPayloadError):
        await post_chat(attempt.url(proxy), stream=True)

    await proxy.pause()
    call = await attempt.call()
    assert call.error is not None
    assert call.output[0]["content"] == "one two"


async def test_unreachable_server_is_named(proxy: agl.LLMProxy, attempt: ProxyAttempt):
    proxy.update_model_list([{"name": "m", "url": "http://127.0.0.1:9/v1", "retries": 0}])

    async with attempt.openai(proxy) as client:
        with pytest.raises(openai.InternalServerError, match="server for model 'm' is unreachable"):
            await client.chat.completions.create(model="m", messages=HELLO)

    assert "is unreachable" in ((await attempt.call()).error or "")


async def test_unknown_model_is_refused_with_the_available_ones(proxy: agl.LLMProxy, attempt: ProxyAttempt):
    async with attempt.openai(proxy) as client:
        with pytest.raises(openai.NotFoundError, match="no model named 'x'; available models: m"):
            await client.chat.completions.create(model="x", messages=HELLO)


@pytest.mark.parametrize("body", ["nonsense", "[1]", ""])
async def test_body_that_is_not_a_json_object_is_refused(proxy: agl.LLMProxy, attempt: ProxyAttempt, body: str):
    url = f"{attempt.url(proxy)}/chat/completions"

    async with aiohttp.ClientSession() as session, session.post(url, data=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_models_are_listed_for_both_sdks(proxy: agl.LLMProxy, attempt: ProxyAttempt):
    async with attempt.openai(proxy) as client, attempt.anthropic(proxy) as other:
        assert [model.id async for model in client.models.list()] == ["m"]
        assert [model.id async for model in other.models.list()] == ["m"]
        assert (await client.models.retrieve("m")).id == "m"


async def test_call_without_an_attempt_is_answered_and_not_recorded(proxy: agl.LLMProxy, attempt: ProxyAttempt):
    assert (await post_chat(proxy.endpoint))[0] == 200
    assert await attempt.spans() == []


async def test_call_of_an_attempt_unknown_to_the_store_is_answered(proxy: agl.LLMProxy):
    assert (await post_chat(proxy.as_resource("ro-unknown", "at-unknown").endpoint))[0] == 200
