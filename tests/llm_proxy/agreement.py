"""What the proxy records of tokens, held to what the server sent, number for number."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson

import agentlightning as agl

from .conftest import Attempt, Tee, serving

KINDS = [
    ("chat/completions", False),
    ("chat/completions", True),
    ("completions", False),
    ("completions", True),
]


# What a server has in its cache changes the last bits of its sums, and so now and then a word. Only where the model
# spells its words as its tokenizer does is there one sequence.
_THE_SAME = {"extra_body": {"cache_prompt": False}}


async def compare(base_url: str, proxy: agl.LLMProxy, attempt: Attempt, calls: int) -> dict[str, int]:
    """Make so many calls through the proxy, every kind in turn; how many agree in what, which is all of them."""
    tee = Tee(base_url)
    async with serving(tee) as url, aiohttp.ClientSession() as session:
        proxy.update_model_list({"m": url})
        for number in range(calls):
            path, stream = KINDS[number % len(KINDS)]
            seen = await _ask(session, f"{attempt.url(proxy)}/{path}", _body(path, number, stream=stream))
            assert b"logprobs" not in seen.replace(b'"logprobs":null', b"")
    answers = [answer for path, answer in tee.answers if path.removeprefix("/v1/") in dict(KINDS)]
    prompts = [orjson.loads(answer)["tokens"] for path, answer in tee.answers if path == "/tokenize"]
    recorded = await attempt.calls()
    assert len(recorded) == len(answers) == len(prompts) == calls
    agreed = {"token_ids": 0, "logprobs": 0, "prompt_token_ids": 0, "tokens": 0}
    for call, answer, prompt in zip(recorded, answers, prompts, strict=True):
        entries, prompt_tokens = _sent(answer)
        assert entries
        assert call.token_ids == [entry["id"] for entry in entries]
        assert call.logprobs == [entry["logprob"] for entry in entries]
        assert call.prompt_token_ids == prompt
        assert len(prompt) == prompt_tokens == call.usage["prompt_tokens"]
        for what in ("token_ids", "logprobs", "prompt_token_ids"):
            agreed[what] += 1
        agreed["tokens"] += len(entries)
    return {"calls": calls, **{f"with_equal_{what}" if what != "tokens" else what: n for what, n in agreed.items()}}


async def converse(base_url: str, proxy: agl.LLMProxy, attempt: Attempt, turns: int) -> dict[str, int]:
    """Talk for so many turns, whole and streamed; the merged sequence holds only ids that were read or sampled."""
    messages: list[Any] = []
    proxy.update_model_list({"m": base_url})
    async with attempt.openai(proxy, timeout=120) as client:
        for turn in range(turns):
            messages.append({"role": "user", "content": f"Say hello, for the {turn + 1}. time."})
            asked: Any = {"model": "m", "messages": messages, "max_tokens": 8, "temperature": 0, **_THE_SAME}
            if turn % 2:
                stream = await client.chat.completions.create(**asked, stream=True)
                said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            else:
                said = (await client.chat.completions.create(**asked)).choices[0].message.content
            messages.append({"role": "assistant", "content": said})
    [triplet] = agl.TracerTraceToTriplet(merge_turns=True).adapt(await attempt.spans())
    calls = await attempt.calls()
    whole = [*triplet.prompt["token_ids"], *triplet.response["token_ids"]]
    assert whole == [*(calls[-1].prompt_token_ids or []), *(calls[-1].token_ids or [])]
    sampled = [one for one, own in zip(triplet.response["token_ids"], triplet.response["sampled"], strict=True) if own]
    assert sampled == [one for call in calls for one in call.token_ids or []]
    assert triplet.metadata["turns"] == turns
    return {"turns": turns, "sequences": 1, "token_ids": len(whole), "sampled": len(sampled), "tokenised_again": 0}


def _body(path: str, number: int, *, stream: bool) -> dict[str, Any]:
    text = f"Count from {number}"
    asked = {"prompt": text} if path == "completions" else {"messages": [{"role": "user", "content": text}]}
    return {"model": "m", "max_tokens": 8, "stream": stream, **asked}


async def _ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> bytes:
    async with session.post(url, json=body) as response:
        return await response.read()


def _sent(answer: bytes) -> tuple[list[Any], int]:
    """The logprobs entries of an answer, whole or streamed, and how many tokens its prompt had."""
    lines = answer.splitlines() if answer.startswith(b"data:") else [b"data: " + answer]
    pieces = [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    logprobs = [choice.get("logprobs") or {} for piece in pieces for choice in piece["choices"]]
    [usage] = [piece["usage"] for piece in pieces if piece.get("usage")]
    return [entry for one in logprobs for entry in one.get("content") or []], usage["prompt_tokens"]
