"""Token ids and log probabilities: asked of servers that give them, recorded, and kept from agents that did not ask."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson
import pytest

import agentlightning as agl
from agentlightning.local_model import LocalModel, serve_local_model
from tests.scripted_model import Answer, ScriptedModel

from .conftest import Attempt, Tee, serving

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


@pytest.mark.model
@pytest.mark.timeout(300)
async def test_llama_cpps_token_ids_and_logprobs_are_recorded_exactly(proxy: agl.LLMProxy, attempt: Attempt):
    with serve_local_model(LocalModel(threads=1)) as base_url:
        await record_agrees_with_server(base_url, proxy, attempt, calls=10)


@pytest.mark.model
@pytest.mark.timeout(300)
async def test_a_conversation_is_one_sequence_without_a_token_that_was_not_read_or_sampled(
    proxy: agl.LLMProxy, attempt: Attempt
):
    messages: list[Any] = []
    with serve_local_model(LocalModel(threads=1)) as base_url:
        proxy.update_model_list({"m": base_url})
        async with attempt.openai(proxy, timeout=120) as client:
            for question in ("Say hello.", "Say it again.", "And once more."):
                messages.append({"role": "user", "content": question})
                answer = await client.chat.completions.create(model="m", messages=messages, max_tokens=8, temperature=0)
                messages.append({"role": "assistant", "content": answer.choices[0].message.content})

    [triplet] = agl.TracerTraceToTriplet(merge_turns=True).adapt(await attempt.spans())
    calls = await attempt.calls()

    whole = [*triplet.prompt["token_ids"], *triplet.response["token_ids"]]
    assert whole == [*(calls[-1].prompt_token_ids or []), *(calls[-1].token_ids or [])]
    sampled = [one for one, own in zip(triplet.response["token_ids"], triplet.response["sampled"], strict=True) if own]
    assert sampled == [one for call in calls for one in call.token_ids or []]
    assert triplet.metadata["turns"] == 3


async def record_agrees_with_server(base_url: str, proxy: agl.LLMProxy, attempt: Attempt, calls: int) -> None:
    """Make so many calls, every other one streamed, and hold the record to what the server sent, number for number."""
    tee = Tee(base_url)
    async with serving(tee) as url:
        proxy.update_model_list({"m": url})
        for number in range(calls):
            messages = [{"role": "user", "content": f"Count from {number}"}]
            seen = await _ask(attempt, proxy, messages=messages, max_tokens=8, stream=number % 2 == 1)
            assert b"logprobs" not in seen
    answers = [answer for path, answer in tee.answers if path == "/v1/chat/completions"]
    prompts = [orjson.loads(answer)["tokens"] for path, answer in tee.answers if path == "/tokenize"]

    recorded = await attempt.calls()

    assert len(recorded) == len(answers) == len(prompts) == calls
    for call, answer, prompt in zip(recorded, answers, prompts, strict=True):
        entries, prompt_tokens = _sent(answer)
        assert call.token_ids == [entry["id"] for entry in entries]
        assert call.logprobs == [entry["logprob"] for entry in entries]
        assert call.prompt_token_ids == prompt
        assert len(prompt) == prompt_tokens == call.usage["prompt_tokens"]


def _sent(answer: bytes) -> tuple[list[Any], int]:
    """The logprobs entries of an answer, whole or streamed, and how many tokens its prompt had."""
    lines = answer.splitlines() if answer.startswith(b"data:") else [b"data: " + answer]
    pieces = [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    logprobs = [choice.get("logprobs") or {} for piece in pieces for choice in piece["choices"]]
    [usage] = [piece["usage"] for piece in pieces if piece.get("usage")]
    return [entry for one in logprobs for entry in one.get("content") or []], usage["prompt_tokens"]
