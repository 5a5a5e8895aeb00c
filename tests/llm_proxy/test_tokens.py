"""Token ids and log probabilities: requested from servers that support them, recorded, and hidden from agents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

import agentlightning as agl
from agentlightning.local_model import LocalModel, serve_local_model
from tests.scripted_model import Answer, ScriptedModel

from .conftest import HELLO, ProxyAttempt, post_chat
from .token_checks import check_calls, check_conversation

WITH_TOKENS = Answer("Hi there", token_ids=[7, 9], logprobs=True)


@pytest.fixture
def vllm(proxy: agl.LLMProxy, model: ScriptedModel) -> agl.LLMProxy:
    """The proxy, with a server configured as vLLM."""
    proxy.update_model_list([{"name": "m", "url": model.base_url, "server": "vllm"}])
    return proxy


@pytest.mark.parametrize("stream", [False, True])
async def test_token_ids_of_vllm_are_recorded_and_hidden_from_the_agent(
    model: ScriptedModel, vllm: agl.LLMProxy, attempt: ProxyAttempt, stream: bool
):
    model.script(WITH_TOKENS)

    _, received = await post_chat(attempt.url(vllm), stream=stream)

    request = model.calls[0].body
    assert (request["logprobs"], request["return_token_ids"]) == (True, True)
    assert request.get("stream_options") == ({"include_usage": True} if stream else None)
    assert b"token_ids" not in received
    assert b"logprob" not in received
    assert (b"usage" in received) is not stream
    call = await attempt.call()
    assert (call.prompt_token_ids, call.token_ids, call.logprobs) == ([1, 2, 3], [7, 9], [-0.5, -0.5])
    assert call.usage["completion_tokens"] == 2
    assert "logprobs" not in call.parameters


@pytest.mark.parametrize("stream", [False, True])
async def test_agent_that_requests_logprobs_and_usage_receives_them(
    model: ScriptedModel, vllm: agl.LLMProxy, attempt: ProxyAttempt, stream: bool
):
    model.script(WITH_TOKENS)
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}

    _, received = await post_chat(attempt.url(vllm), stream=stream, logprobs=True, top_logprobs=3, **options)

    assert model.calls[0].body["top_logprobs"] == 3
    assert b"logprob" in received
    assert b"usage" in received
    assert b"token_ids" not in received


async def test_events_of_a_stream_are_otherwise_unchanged(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    _, plain = await post_chat(attempt.url(proxy), stream=True)
    proxy.update_model_list([{"name": "m", "url": model.base_url, "server": "vllm"}])

    _, edited = await post_chat(attempt.url(proxy), stream=True)

    def chunks(stream: bytes) -> list[Any]:
        events = [line[6:] for line in stream.splitlines() if line.startswith(b"data: {")]
        return [orjson.loads(event) | {"id": None} for event in events]

    # The scripted model writes "logprobs": null into every chunk; the proxy removes it.
    for chunk in (expected := chunks(plain)):
        for choice in chunk["choices"]:
            choice.pop("logprobs", None)
    assert chunks(edited) == expected
    assert edited.endswith(b"data: [DONE]\n\n")


async def test_unknown_server_gets_the_request_unchanged(
    model: ScriptedModel, proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    await post_chat(attempt.url(proxy), stream=True)

    assert model.calls[0].body == {"model": "m", "messages": HELLO, "stream": True}


async def test_request_that_is_not_recorded_is_unchanged(model: ScriptedModel, vllm: agl.LLMProxy):
    await post_chat(vllm.endpoint)

    assert model.calls[0].body == {"model": "m", "messages": HELLO}


# With llama.cpp


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[str]:
    with serve_local_model(LocalModel(threads=1)) as base_url:
        yield base_url


@pytest.mark.model
async def test_token_ids_and_logprobs_of_llama_cpp_are_recorded_exactly(
    llama_cpp: str, proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    await check_calls(llama_cpp, proxy, attempt, calls=4)


@pytest.mark.model
async def test_conversation_is_one_sequence_of_prompt_and_sampled_tokens(
    llama_cpp: str, proxy: agl.LLMProxy, attempt: ProxyAttempt
):
    await check_conversation(llama_cpp, proxy, attempt, turns=2)
