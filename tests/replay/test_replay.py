"""Replay with real SDKs: recorded responses instead of a model, and a description of the first difference."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning.errors import NotFound
from agentlightning.llm_proxy import LLMProxy
from agentlightning.replay import Cassette, ReplayResult, regrade, replay
from agentlightning.replay.cassette import first_difference
from tests.scripted_model import Answer, ScriptedModel

Agent = Callable[..., Any]


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(lambda question: f"the answer to {question}") as model:
        yield model


class Recorder:
    """A store, and a proxy before the scripted model."""

    def __init__(self, store: agl.LightningStore, proxy: LLMProxy) -> None:
        self.store, self.proxy = store, proxy

    async def record(self, agent: Agent, task: Any) -> agl.Rollout:
        runner = agl.LitAgentRunner[Any](agl.LightningTracer())
        with runner.run_context(agent=agent, store=self.store):
            rollout = await runner.step(task, {"llm": self.proxy.as_resource()})
        assert rollout.status == "succeeded"
        return rollout

    async def replay(self, agent: Agent, rollout: agl.Rollout) -> ReplayResult:
        return await replay(self.store, rollout.rollout_id, agent)


@pytest.fixture
async def recorder(model: ScriptedModel) -> AsyncIterator[Recorder]:
    async with agl.InMemoryLightningStore() as store, LLMProxy(None, {"tiny": model.base_url}, store) as proxy:
        yield Recorder(store, proxy)


def openai_client(llm: agl.LLM) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=llm.endpoint, api_key="sk-none", max_retries=0)


def user(*texts: str) -> Any:
    return [{"role": "user", "content": text} for text in texts]


@agl.rollout
async def two_calls(task: str, llm: agl.LLM) -> float:
    async with openai_client(llm) as client:
        first = await client.chat.completions.create(model="tiny", messages=user(task))
        text = first.choices[0].message.content or ""
        await client.chat.completions.create(model="tiny", messages=user(task, text))
    return float(len(text))


@agl.rollout
async def one_streamed_call(task: str, llm: agl.LLM) -> float:
    async with openai_client(llm) as client:
        stream = await client.chat.completions.create(model="tiny", messages=user(task), stream=True)
        return float(len("".join([chunk.choices[0].delta.content or "" async for chunk in stream])))


async def test_first_call_that_differs_is_described(recorder: Recorder):
    rollout = await recorder.record(two_calls, "why?")

    @agl.rollout
    async def changed(task: str, llm: agl.LLM) -> float:
        async with openai_client(llm) as client:
            await client.chat.completions.create(model="tiny", messages=user(task))
            await client.chat.completions.create(model="tiny", messages=user(task, "changed"))
        return 1.0

    result = await recorder.replay(changed, rollout)

    assert not result.is_identical
    assert (result.matched_calls, result.status) == (1, "failed")
    assert result.difference == 'call 2 differs: messages.1.content was "the answer to why?", is "changed"'


async def test_missing_and_additional_calls_are_described(recorder: Recorder):
    two, one = await recorder.record(two_calls, "why?"), await recorder.record(one_streamed_call, "why?")

    @agl.rollout
    async def silent(task: str, llm: agl.LLM) -> float:
        return 1.0

    @agl.rollout
    async def repeated(task: str, llm: agl.LLM) -> float:
        await one_streamed_call(task, llm)
        return await one_streamed_call(task, llm)

    assert (await recorder.replay(silent, two)).difference == "recorded call 1 was not made"
    assert (
        await recorder.replay(repeated, one)
    ).difference == "call 2, to chat/completions, was not recorded: the recording has 1 calls"


async def test_tool_calls_are_replayed_with_and_without_streaming(recorder: Recorder, model: ScriptedModel):
    received: list[Any] = []

    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        tool: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
        async with openai_client(llm) as client:
            whole = await client.chat.completions.create(model="tiny", messages=user(task), tools=[tool])
            async with client.chat.completions.stream(model="tiny", messages=user(task), tools=[tool]) as stream:
                final = await stream.get_final_completion()
        calls: list[Any] = [call for each in (whole, final) for call in each.choices[0].message.tool_calls or []]
        received.append([(call.id, call.function.name, call.function.arguments) for call in calls])
        return 1.0

    model.script(Answer(tool_calls=[("add", {"a": 1})]), Answer(tool_calls=[("add", {"a": 2})]))
    rollout = await recorder.record(agent, "add")

    assert (await recorder.replay(agent, rollout)).is_identical
    assert received[0] == received[1]
    assert received[1][1][2].replace(" ", "") == '{"a":2}'


async def test_model_from_environment_is_replaced_and_restored(recorder: Recorder, monkeypatch: pytest.MonkeyPatch):
    url = recorder.proxy.endpoint.removesuffix("/v1")

    @agl.rollout
    def agent(task: str) -> float:
        with Anthropic(max_retries=0) as anthropic:
            anthropic.messages.create(model="tiny", max_tokens=9, messages=user(task))
        return 1.0

    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    rollout = await recorder.record(agent, "why?")

    assert (await recorder.replay(agent, rollout)).is_identical
    assert os.environ["ANTHROPIC_BASE_URL"] == url
    assert "OPENAI_BASE_URL" not in os.environ


async def test_replay_of_unknown_rollout_raises_not_found(recorder: Recorder):
    with pytest.raises(NotFound, match="ro-none is not in this store"):
        await replay(recorder.store, "ro-none", two_calls)


async def test_regrade_computes_rewards_without_changing_the_store(recorder: Recorder):
    rollout = await recorder.record(two_calls, "why?")
    before = list(await recorder.store.query_spans(rollout.rollout_id))

    [result] = await regrade(recorder.store, lambda task, output: float(output.count("answer") and task == "why?"))

    recorded = float(len("the answer to why?"))
    assert (result.rollout_id, result.recorded_reward, result.reward) == (rollout.rollout_id, recorded, 1.0)
    assert list(await recorder.store.query_spans(rollout.rollout_id)) == before


@pytest.mark.parametrize(
    ("recorded", "sent", "difference"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, None),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "a.1.b was 2, is 3"),
        ({"a": [1]}, {"a": [1, 2]}, "a.1 was missing, is 2"),
        ({"a": 1, "user": "x"}, {"a": 1}, None),
        ({"a": 1}, {"b": 1}, "a was 1, is missing"),
    ],
)
def test_difference_names_the_first_field(recorded: Any, sent: Any, difference: str | None):
    assert first_difference(recorded, sent) == difference


def test_empty_cassette_has_no_response():
    cassette = Cassette.from_spans([])

    assert cassette.response_to("messages", {}) is None
    assert cassette.difference == "call 1, to messages, was not recorded: the recording has 0 calls"
