"""Calls through the proxy: every API, whole and streamed, answered as the server answers and recorded as it was."""

from __future__ import annotations

import aiohttp
import openai
import pytest

import agentlightning as agl
from tests.scripted_model import Answer, ScriptedModel

from .conftest import Attempt, serving

HELLO = [{"role": "user", "content": "Hello"}]


async def test_a_chat_is_answered_and_recorded(model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt):
    async with attempt.openai(proxy) as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO, temperature=0.5)

    call = await attempt.call()
    assert answer.choices[0].message.content == "You said: Hello"
    assert call.messages == HELLO
    assert call.output == [{"role": "assistant", "content": "You said: Hello"}]
    assert (call.model, call.response_id, call.parameters) == ("m", answer.id, {"temperature": 0.5})
    assert model.calls[0].body == {"model": "m", "messages": HELLO, "temperature": 0.5}


async def test_a_streamed_chat_is_answered_and_recorded(proxy: agl.LLMProxy, attempt: Attempt):
    async with attempt.openai(proxy) as client:
        stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]

    call = await attempt.call()
    assert "".join(said) == call.output[0]["content"] == "You said: Hello"
    assert call.finish_reason == "stop"


async def test_responses_are_answered_and_recorded_whole_and_streamed(proxy: agl.LLMProxy, attempt: Attempt):
    async with attempt.openai(proxy) as client:
        whole = await client.responses.create(model="m", input="Hello", instructions="Be brief.")
        stream = await client.responses.create(model="m", input="Hello", stream=True)
        events = [event.type async for event in stream]

    first, second = await attempt.calls()
    assert whole.output_text == first.output[0]["content"] == second.output[0]["content"] == "You said: Hello"
    assert first.messages[0] == {"role": "system", "content": "Be brief."}
    assert events[-1] == "response.completed"


async def test_anthropic_messages_are_answered_and_recorded_whole_and_streamed(proxy: agl.LLMProxy, attempt: Attempt):
    async with attempt.anthropic(proxy) as client:
        whole = await client.messages.create(model="m", messages=HELLO, max_tokens=9)
        async with client.messages.stream(model="m", messages=HELLO, max_tokens=9) as stream:
            said = [text async for text in stream.text_stream]

    first, second = await attempt.calls()
    assert whole.content[0].text == "".join(said) == first.output[0]["content"] == second.output[0]["content"]
    assert second.finish_reason == "stop"


async def test_completions_and_embeddings_are_answered_and_recorded(proxy: agl.LLMProxy, attempt: Attempt):
    async with attempt.openai(proxy) as client:
        completed = await client.completions.create(model="m", prompt="Hello")
        stream = await client.completions.create(model="m", prompt="Hello", stream=True)
        said = [chunk.choices[0].text async for chunk in stream]
        embedded = await client.embeddings.create(model="m", input="Hello", encoding_format="float")

    calls = await attempt.calls()
    assert completed.choices[0].text == "".join(said) == calls[1].output[0]["content"]
    assert embedded.data[0].embedding == [0.0, 0.5, 1.0]
    assert [call.operation for call in calls] == ["text_completion", "text_completion", "embeddings"]


async def test_tool_calls_pass_whole_and_streamed(model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt):
    wanted = Answer(tool_calls=[("add", {"a": 2, "b": 3})])
    model.script(wanted, wanted)

    async with attempt.openai(proxy) as client:
        await client.chat.completions.create(model="m", messages=HELLO)
        async with client.chat.completions.stream(model="m", messages=HELLO) as stream:
            final = await stream.get_final_completion()

    first, second = await attempt.calls()
    assert final.choices[0].message.tool_calls[0].function.arguments == '{"a": 2, "b": 3}'
    for call in (first, second):
        assert call.output[0]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 2, "b": 3}'}


async def test_the_servers_own_bytes_reach_the_agent(model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt):
    body = {"model": "m", "messages": HELLO, "stream": True}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{model.base_url}/chat/completions", json=body) as response:
            direct = await response.read()
        async with session.post(f"{attempt.url(proxy)}/chat/completions", json=body) as response:
            passed = await response.read()

    assert passed == direct.replace(b"chatcmpl-1", b"chatcmpl-2")


async def test_the_span_is_in_the_store_before_the_agent_has_the_end(proxy: agl.LLMProxy, attempt: Attempt):
    body = {"model": "m", "messages": HELLO, "stream": True}

    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{attempt.url(proxy)}/chat/completions", json=body) as response,
    ):
        async for line in response.content:
            if line.strip() == b"data: [DONE]":
                assert len(await attempt.spans()) == 1


async def test_a_stream_reaches_the_agent_while_the_server_still_speaks(proxy: agl.LLMProxy, attempt: Attempt):
    import asyncio
    import threading

    go_on = threading.Event()

    async def slow(_scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for word in ("one", "two"):
            chunk = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % word.encode()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.to_thread(go_on.wait, 10)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async with serving(slow) as url:
        proxy.update_model_list({"m": url})
        async with attempt.openai(proxy) as client:
            stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
            said = []
            async for chunk in stream:
                said.append(chunk.choices[0].delta.content)
                assert go_on.is_set() == (said != ["one"])
                go_on.set()

    assert said == ["one", "two"]


async def test_an_agent_that_goes_away_ends_the_call_and_what_it_saw_is_recorded(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt
):
    import asyncio

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def endless(_scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send(
                {
                    "type": "http.response.body",
                    "body": b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n',
                    "more_body": True,
                }
            )
            await asyncio.wait({gone}, timeout=0.01)
        loop.call_soon_threadsafe(stopped.set)

    async with serving(endless) as url:
        proxy.update_model_list({"m": url})
        async with aiohttp.ClientSession() as session:
            body = {"model": "m", "messages": HELLO, "stream": True}
            async with session.post(f"{attempt.url(proxy)}/chat/completions", json=body) as response:
                await response.content.readany()
                response.close()
        await asyncio.wait_for(stopped.wait(), 60)

    await proxy.pause()  # returns when the call is over
    [span] = await attempt.spans()
    assert span.attributes["agentlightning.incomplete"] is True
    assert (await attempt.call()).output[0]["content"].startswith("x")


async def test_a_servers_refusal_reaches_the_agent_and_the_record(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt
):
    model.script(Answer("too long", status=400))

    async with attempt.openai(proxy) as client:
        with pytest.raises(openai.BadRequestError, match="too long"):
            await client.chat.completions.create(model="m", messages=HELLO)

    assert (await attempt.call()).error == "HTTP 400: too long"


async def test_a_server_that_falters_is_asked_again(model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt):
    model.script(Answer(status=503), Answer(status=500), "at last")

    async with attempt.openai(proxy) as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO)

    assert answer.choices[0].message.content == "at last"
    assert (await attempt.call()).output[0]["content"] == "at last"
    assert len(model.calls) == 3


async def test_a_stream_that_breaks_is_a_broken_stream_to_the_agent(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt
):
    model.script(Answer("one two three four", break_after=3))
    body = {"model": "m", "messages": HELLO, "stream": True}

    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{attempt.url(proxy)}/chat/completions", json=body) as response,
    ):
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()

    await proxy.pause()
    call = await attempt.call()
    assert call.error is not None
    assert call.output[0]["content"] == "one two"


async def test_a_server_that_is_not_there_is_named(proxy: agl.LLMProxy, attempt: Attempt):
    proxy.update_model_list([{"name": "m", "url": "http://127.0.0.1:9/v1", "retries": 0}])

    async with attempt.openai(proxy) as client:
        with pytest.raises(openai.InternalServerError, match="server of model 'm' is unreachable"):
            await client.chat.completions.create(model="m", messages=HELLO)

    assert "is unreachable" in ((await attempt.call()).error or "")


async def test_a_model_that_is_not_there_is_told_with_those_that_are(proxy: agl.LLMProxy, attempt: Attempt):
    async with attempt.openai(proxy) as client:
        with pytest.raises(openai.NotFoundError, match="no model named 'x'; available models: m"):
            await client.chat.completions.create(model="x", messages=HELLO)


@pytest.mark.parametrize("body", ["nonsense", "[1]", ""])
async def test_what_is_no_call_is_refused(proxy: agl.LLMProxy, attempt: Attempt, body: str):
    url = f"{attempt.url(proxy)}/chat/completions"

    async with aiohttp.ClientSession() as session, session.post(url, data=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_the_models_are_listed(proxy: agl.LLMProxy, attempt: Attempt):
    async with attempt.openai(proxy) as client, attempt.anthropic(proxy) as other:
        assert [model.id async for model in client.models.list()] == ["m"]
        assert [model.id async for model in other.models.list()] == ["m"]
        assert (await client.models.retrieve("m")).id == "m"


async def test_calls_that_are_nobodys_are_answered_and_not_recorded(proxy: agl.LLMProxy, attempt: Attempt):
    async with openai.AsyncOpenAI(base_url=proxy.endpoint, api_key="none") as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO)

    assert answer.choices[0].message.content == "You said: Hello"
    assert await attempt.spans() == []


async def test_a_proxy_whose_store_does_not_know_the_attempt_still_answers(proxy: agl.LLMProxy):
    url = proxy.as_resource("ro-unknown", "at-unknown").endpoint

    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO)

    assert answer.choices[0].message.content == "You said: Hello"
