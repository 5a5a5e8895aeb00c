"""Comparison of the recorded tokens with those that the server sent, number for number."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson

import agentlightning as agl

from .conftest import ProxyAttempt, RecordingForwarder, serve_app

KINDS = [
    ("chat/completions", False),
    ("chat/completions", True),
    ("completions", False),
    ("completions", True),
]


# The contents of a server's cache change the last bits of its sums, and so now and then a word. There is one sequence
# only if the model spells its words as its tokenizer does.
_REPRODUCIBLE = {"extra_body": {"cache_prompt": False}}


async def check_calls(base_url: str, proxy: agl.LLMProxy, attempt: ProxyAttempt, calls: int) -> dict[str, int]:
    """Make this many calls, of every kind in turn; check that their tokens are equal and return the counts."""
    forwarder = RecordingForwarder(base_url)
    async with serve_app(forwarder) as url, aiohttp.ClientSession() as session:
        proxy.update_model_list({"m": url})
        for number in range(calls):
            path, stream = KINDS[number % len(KINDS)]
            received = await _post(session, f"{attempt.url(proxy)}/{path}", _body(path, number, stream=stream))
            assert b"logprobs" not in received.replace(b'"logprobs":null', b"")
    responses = [body for path, body in forwarder.responses if path.removeprefix("/v1/") in dict(KINDS)]
    prompts = [orjson.loads(body)["tokens"] for path, body in forwarder.responses if path == "/tokenize"]
    recorded = await attempt.calls()
    assert len(recorded) == len(responses) == len(prompts) == calls
    equal = {"token_ids": 0, "logprobs": 0, "prompt_token_ids": 0, "tokens": 0}
    for call, response, prompt in zip(recorded, responses, prompts, strict=True):
        entries, prompt_tokens = _sent_tokens(response)
        assert entries
        assert call.token_ids == [entry["id"] for entry in entries]
        assert call.logprobs == [entry["logprob"] for entry in entries]
        assert call.prompt_token_ids == prompt
        assert len(prompt) == prompt_tokens == call.usage["prompt_tokens"]
        for field in ("token_ids", "logprobs", "prompt_token_ids"):
            equal[field] += 1
        equal["tokens"] += len(entries)
    return {"calls": calls, **{f"with_equal_{name}" if name != "tokens" else name: n for name, n in equal.items()}}


async def check_conversation(base_url: str, proxy: agl.LLMProxy, attempt: ProxyAttempt, turns: int) -> dict[str, int]:
    """Hold a conversation of `turns` turns; check that the merged sequence has only prompt and sampled tokens."""
    messages: list[Any] = []
    proxy.update_model_list({"m": base_url})
    async with attempt.openai(proxy, timeout=120) as client:
        for turn in range(turns):
            messages.append({"role": "user", "content": f"Say hello, for the {turn + 1}. time."})
            request: Any = {"model": "m", "messages": messages, "max_tokens": 8, "temperature": 0, **_REPRODUCIBLE}
            if turn % 2:
                stream = await client.chat.completions.create(**request, stream=True)
                text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            else:
                text = (await client.chat.completions.create(**request)).choices[0].message.content
            messages.append({"role": "assistant", "content": text})
    [triplet] = agl.TracerTraceToTriplet(merge_turns=True).adapt(await attempt.spans())
    calls = await attempt.calls()
    whole = [*triplet.prompt["token_ids"], *triplet.response["token_ids"]]
    assert whole == [*(calls[-1].prompt_token_ids or []), *(calls[-1].token_ids or [])]
    pairs = zip(triplet.response["token_ids"], triplet.response["sampled"], strict=True)
    sampled = [token_id for token_id, is_sampled in pairs if is_sampled]
    assert sampled == [token_id for call in calls for token_id in call.token_ids or []]
    assert triplet.metadata["turns"] == turns
    return {"turns": turns, "sequences": 1, "token_ids": len(whole), "sampled": len(sampled), "tokenised_again": 0}


def _body(path: str, number: int, *, stream: bool) -> dict[str, Any]:
    text = f"Count from {number}"
    prompt = {"prompt": text} if path == "completions" else {"messages": [{"role": "user", "content": text}]}
    return {"model": "m", "max_tokens": 8, "stream": stream, **prompt}


async def _post(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> bytes:
    async with session.post(url, json=body) as response:
        return await response.read()


def _sent_tokens(response: bytes) -> tuple[list[Any], int]:
    """Return the logprobs entries of a response, streamed or not, and the number of prompt tokens."""
    lines = response.splitlines() if response.startswith(b"data:") else [b"data: " + response]
    pieces = [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    logprobs = [choice.get("logprobs") or {} for piece in pieces for choice in piece["choices"]]
    [usage] = [piece["usage"] for piece in pieces if piece.get("usage")]
    return [entry for one in logprobs for entry in one.get("content") or []], usage["prompt_tokens"]
