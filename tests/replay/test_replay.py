"""Replay: agents run again against the tape, SDKs and all, and the first call that differs is named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning.errors import NotFound
from agentlightning.llm_proxy import LLMProxy
from agentlightning.replay import Replayed, Tape, regrade, replay
from agentlightning.replay.cassette import first_difference
from tests.scripted_model import Answer, ScriptedModel

Agent = Callable[..., Any]


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(lambda question: f"the answer to {question}") as model:
        yield model


class Workshop:
    """A store, a proxy in front of the scripted model, and what tests do with them."""

    def __init__(self, store: agl.LightningStore, proxy: LLMProxy) -> None:
        self.store, self.proxy = store, proxy

    async def record(self, agent: Agent, task: Any) -> agl.Rollout:
        runner = agl.LitAgentRunner[Any](agl.LightningTracer())
        with runner.run_context(agent=agent, store=self.store):
            rollout = await runner.step(task, {"llm": self.proxy.as_resource()})
        assert rollout.status == "succeeded"
        return rollout

    async def replay(self, agent: Agent, rollout: agl.Rollout) -> Replayed:
        return await replay(self.store, rollout.rollout_id, agent)


@pytest.fixture
async def workshop(model: ScriptedModel) -> AsyncIterator[Workshop]:
    async with agl.InMemoryLightningStore() as store, LLMProxy(None, {"tiny": model.base_url}, store) as proxy:
        yield Workshop(store, proxy)


def client(llm: agl.LLM) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=llm.endpoint, api_key="sk-none", max_retries=0)


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


heard: list[Any] = []


@agl.rollout
async def chat(task: str, llm: agl.LLM) -> float:
    async with client(llm) as openai:
        first = await openai.chat.completions.create(model="tiny", messages=said(task))  # type: ignore[arg-type]
        text = first.choices[0].message.content or ""
        second = await openai.chat.completions.create(model="tiny", messages=said(task, text))  # type: ignore[arg-type]
        heard.append((text, second.choices[0].message.content))
    return float(len(text))


@agl.rollout
async def streamed(task: str, llm: agl.LLM) -> float:
    async with client(llm) as openai:
        stream = await openai.chat.completions.create(model="tiny", messages=said(task), stream=True)  # type: ignore[arg-type]
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    heard.append(text)
    return float(len(text))


@agl.rollout
async def helper(task: str, llm: agl.LLM) -> float:
    async with client(llm) as openai, openai.responses.stream(model="tiny", input=task) as stream:
        text = (await stream.get_final_response()).output_text
    heard.append(text)
    return float(len(text))


@agl.rollout
async def claude(task: str, llm: agl.LLM) -> float:
    base_url = llm.endpoint.removesuffix("/v1")
    async with AsyncAnthropic(base_url=base_url, api_key="none", max_retries=0) as anthropic:
        whole = await anthropic.messages.create(model="tiny", max_tokens=9, messages=said(task))  # type: ignore[arg-type]
        async with anthropic.messages.stream(model="tiny", max_tokens=9, messages=said(task, "x")) as stream:  # type: ignore[arg-type]
            text = await stream.get_final_text()
    heard.append((whole.content[0].to_dict()["text"], text))
    return float(len(text))


@pytest.mark.parametrize("agent", [chat, streamed, helper, claude], ids=lambda agent: agent.__name__)
async def test_a_replay_hears_what_was_heard_and_asks_no_model(
    workshop: Workshop, model: ScriptedModel, agent: Agent
) -> None:
    heard.clear()
    rollout = await workshop.record(agent, "why?")
    calls = len(model.calls)

    replayed = await workshop.replay(agent, rollout)

    assert replayed.same, replayed
    assert replayed.played == replayed.calls == calls
    assert heard[0] == heard[1]
    assert len(model.calls) == calls


async def test_tool_calls_are_played_whole_and_streamed(workshop: Workshop, model: ScriptedModel) -> None:
    calls: list[Any] = []

    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        tool: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
        messages: Any = said(task)
        async with client(llm) as openai:
            whole = await openai.chat.completions.create(model="tiny", messages=messages, tools=[tool])
            async with openai.chat.completions.stream(model="tiny", messages=messages, tools=[tool]) as stream:
                final = await stream.get_final_completion()
        calls.append(
            [
                [
                    (call.id, call.function.name, call.function.arguments)
                    for call in each.choices[0].message.tool_calls or []
                ]  # type: ignore[union-attr]
                for each in (whole, final)
            ]
        )
        return 1.0

    model.script(Answer(tool_calls=[("add", {"a": 1})]), Answer(tool_calls=[("add", {"a": 2})]))
    rollout = await workshop.record(agent, "add")

    assert (await workshop.replay(agent, rollout)).same
    assert calls[0] == calls[1]
    assert calls[0][1][0][2] == '{"a": 2}' or calls[0][1][0][2] == '{"a":2}'


async def test_the_first_call_that_differs_is_named(workshop: Workshop) -> None:
    rollout = await workshop.record(chat, "why?")

    @agl.rollout
    async def changed(task: str, llm: agl.LLM) -> float:
        async with client(llm) as openai:
            await openai.chat.completions.create(model="tiny", messages=said(task))  # type: ignore[arg-type]
            await openai.chat.completions.create(model="tiny", messages=said(task, "planted"))  # type: ignore[arg-type]
        return 1.0

    replayed = await workshop.replay(changed, rollout)

    assert not replayed.same
    assert (replayed.played, replayed.status) == (1, "failed")
    assert replayed.difference == 'call 2 differs: messages.1.content was "the answer to why?", is "planted"'


async def test_calls_too_few_and_too_many_are_named(workshop: Workshop) -> None:
    two, one = await workshop.record(chat, "why?"), await workshop.record(streamed, "why?")

    @agl.rollout
    async def silent(task: str, llm: agl.LLM) -> float:
        return 1.0

    @agl.rollout
    async def twice(task: str, llm: agl.LLM) -> float:
        await streamed(task, llm)
        return await streamed(task, llm)

    assert (await workshop.replay(silent, two)).difference == "call 1 on the tape was not made"
    assert "one more than the 1 on the tape" in ((await workshop.replay(twice, one)).difference or "")


async def test_the_environments_model_is_the_tape_too_and_comes_back(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    @agl.rollout
    def agent(task: str) -> float:
        with Anthropic(max_retries=0) as anthropic:
            anthropic.messages.create(model="tiny", max_tokens=9, messages=said(task))  # type: ignore[arg-type]
        return 1.0

    monkeypatch.setenv("ANTHROPIC_BASE_URL", workshop.proxy.endpoint.removesuffix("/v1"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    rollout = await workshop.record(agent, "why?")

    assert (await workshop.replay(agent, rollout)).same


async def test_a_rollout_that_is_not_there_cannot_be_replayed(workshop: Workshop) -> None:
    with pytest.raises(NotFound):
        await replay(workshop.store, "ro-none", chat)


async def test_rewards_are_computed_anew_and_nothing_is_changed(workshop: Workshop) -> None:
    rollout = await workshop.record(chat, "why?")
    before = list(await workshop.store.query_spans(rollout.rollout_id))

    [regraded] = await regrade(workshop.store, lambda task, output: float(output.count("answer") and task == "why?"))

    assert (regraded.rollout_id, regraded.was, regraded.now) == (
        rollout.rollout_id,
        float(len("the answer to why?")),
        1.0,
    )
    assert list(await workshop.store.query_spans(rollout.rollout_id)) == before


@pytest.mark.parametrize(
    ("was", "now", "difference"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, None),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "a.1.b was 2, is 3"),
        ({"a": [1]}, {"a": [1, 2]}, "a.1 was not there, is 2"),
        ({"a": 1, "user": "x"}, {"a": 1}, None),
        ({"a": 1}, {"b": 1}, "a was 1, is not there"),
    ],
)
def test_a_difference_is_told_by_its_place(was: Any, now: Any, difference: str | None) -> None:
    assert first_difference(was, now) == difference


def test_a_tape_of_nothing_answers_nothing() -> None:
    tape = Tape.of([])

    assert tape.answer("messages", {}) is None
    assert tape.difference == "call 1, to messages, is one more than the 0 on the tape"
