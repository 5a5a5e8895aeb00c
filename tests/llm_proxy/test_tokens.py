"""Token ids and log probabilities: asked of servers that give them, recorded, and kept from agents that did not ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aiohttp
import orjson
import pytest

import agentlightning as agl
from agentlightning.local_model import LocalModel, serve_local_model
from tests.scripted_model import Answer, ScriptedModel

from .agreement import compare, converse
from .conftest import Attempt

HELLO = [{"role": "user", "content": "Hello"}]
GIVES_TOKENS = Answer("Hi there", token_ids=[7, 9], logprobs=True)


def _is_vllm(proxy: agl.LLMProxy, model: ScriptedModel) -> None:
    proxy.update_model_list([{"name": "m", "url": model.base_url, "server": "vllm"}])


async def _ask(attempt: Attempt, proxy: agl.LLMProxy, **body: Any) -> bytes:
    url = f"{attempt.url(proxy)}/chat/completions"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={"model": "m", "messages": HELLO, **body}) as it,
    ):
        return await it.read()


@pytest.mark.parametrize("stream", [False, True])
async def test_vllm_is_asked_for_token_ids_and_the_agent_does_not_see_them(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt, stream: bool
):
    _is_vllm(proxy, model)
    model.script(GIVES_TOKENS)

    seen = await _ask(attempt, proxy, stream=stream)

    asked = model.calls[0].body
    assert (asked["logprobs"], asked["return_token_ids"]) == (True, True)
    assert asked.get("stream_options") == ({"include_usage": True} if stream else None)
    for word in (b"token_ids", b"logprob"):
        assert word not in seen
    assert (b"usage" in seen) is not stream
    call = await attempt.call()
    assert (call.prompt_token_ids, call.token_ids, call.logprobs) == ([1, 2, 3], [7, 9], [-0.5, -0.5])
    assert call.usage["completion_tokens"] == 2
    assert "logprobs" not in call.parameters


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_that_asked_for_logprobs_and_usage_gets_them(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt, stream: bool
):
    _is_vllm(proxy, model)
    model.script(GIVES_TOKENS)
    options = {"stream_options": {"include_usage": True}} if stream else {}

    seen = await _ask(attempt, proxy, stream=stream, logprobs=True, top_logprobs=3, **options)

    assert model.calls[0].body["top_logprobs"] == 3
    assert b"logprob" in seen
    assert b"usage" in seen
    assert b"token_ids" not in seen


async def test_a_streams_events_are_otherwise_what_the_server_sent(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt
):
    await _ask(attempt, proxy, stream=True)
    plain = await _ask(attempt, proxy, stream=True)
    _is_vllm(proxy, model)

    edited = await _ask(attempt, proxy, stream=True)

    def chunks(stream: bytes) -> list[Any]:
        events = [line[6:] for line in stream.splitlines() if line.startswith(b"data: {")]
        return [orjson.loads(event) | {"id": None} for event in events]

    # The scripted model writes "logprobs": null into every chunk; what was not asked for is left out.
    for chunk in (expected := chunks(plain)):
        for choice in chunk["choices"]:
            choice.pop("logprobs", None)
    assert chunks(edited) == expected
    assert edited.endswith(b"data: [DONE]\n\n")


async def test_a_server_that_is_not_known_is_asked_for_nothing_more(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: Attempt
):
    await _ask(attempt, proxy, stream=True)

    assert model.calls[0].body == {"model": "m", "messages": HELLO, "stream": True}


async def test_calls_that_nobody_records_are_not_asked_for_more(model: ScriptedModel, proxy: agl.LLMProxy):
    _is_vllm(proxy, model)

    async with aiohttp.ClientSession() as session:
        await session.post(f"{proxy.endpoint}/chat/completions", json={"model": "m", "messages": HELLO})

    assert model.calls[0].body == {"model": "m", "messages": HELLO}


# Against llama.cpp itself


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    with serve_local_model(LocalModel(threads=1)) as base_url:
        yield base_url


@pytest.mark.model
async def test_llama_cpps_token_ids_and_logprobs_are_recorded_exactly(
    llama: str, proxy: agl.LLMProxy, attempt: Attempt
):
    await compare(llama, proxy, attempt, calls=12)


@pytest.mark.model
async def test_a_conversation_is_one_sequence_without_a_token_that_was_not_read_or_sampled(
    llama: str, proxy: agl.LLMProxy, attempt: Attempt
):
    await converse(llama, proxy, attempt, turns=3)
