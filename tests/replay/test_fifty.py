"""Fifty recorded rollouts, chats, tools and streams mixed: each replays to the last word, and asks no model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning.llm_proxy import LLMProxy
from agentlightning.replay import Replayed, regrade, replay
from tests.scripted_model import Answer, Call, ScriptedModel

FIFTY = 50
PLANTED = 33
"""The task at which the changed agent asks something else, in its second call."""

TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
Say = Callable[[str], None]


def answers(call: Call) -> Answer:
    """Something else for each question, a tool call where one is due, and a number that no replay could guess."""
    last = (call.body.get("messages") or [{"role": "user"}])[-1]
    if call.body.get("tools") and last["role"] == "user":
        return Answer(tool_calls=[("add", {"a": call.number, "b": 1})])
    return Answer(f"answer {call.number} to {call.question}")


class SDKs:
    """Clients of one connection pool for all agents: making one costs more than many calls."""

    def __init__(self, openai: AsyncOpenAI, anthropic: AsyncAnthropic) -> None:
        self.openai, self.anthropic = openai, anthropic

    def at(self, llm: agl.LLM) -> SDKs:
        return SDKs(
            self.openai.with_options(base_url=llm.endpoint),
            self.anthropic.with_options(base_url=llm.endpoint.removesuffix("/v1")),
        )


@pytest.fixture
async def sdks() -> AsyncIterator[SDKs]:
    async with (
        AsyncOpenAI(base_url="http://nowhere", api_key="sk-none", max_retries=0) as openai,
        AsyncAnthropic(base_url="http://nowhere", api_key="none", max_retries=0) as anthropic,
    ):
        yield SDKs(openai, anthropic)


class Agent:
    """Does, for each task, one of five things, and remembers all it was told."""

    def __init__(self, sdks: SDKs, *, changed: bool = False) -> None:
        self.heard: dict[int, list[str]] = {}
        self._sdks = sdks
        self._changed = changed

    def made(self) -> Any:
        @agl.rollout
        async def agent(task: int, llm: agl.LLM) -> float:
            heard = self.heard[task] = []
            way = (chat, streamed, tools, responses, messages)[task % 5]
            await way(
                task, self._sdks.at(llm), heard.append, "planted" if self._changed and task == PLANTED else "and then?"
            )
            return float(len("".join(heard)))

        return agent


def asked(*texts: str) -> Any:
    return [{"role": "user", "content": text} for text in texts]


async def chat(task: int, sdks: SDKs, say: Say, then: str) -> None:
    for question in (f"question {task}", then):
        answer = await sdks.openai.chat.completions.create(model="m", messages=asked(question))
        say(answer.choices[0].message.content or "")


async def streamed(task: int, sdks: SDKs, say: Say, then: str) -> None:
    for question in (f"question {task}", then):
        stream = await sdks.openai.chat.completions.create(model="m", messages=asked(question), stream=True)
        say("".join([chunk.choices[0].delta.content or "" async for chunk in stream]))


async def tools(task: int, sdks: SDKs, say: Say, then: str) -> None:
    messages = asked(f"question {task}")
    async with sdks.openai.chat.completions.stream(model="m", messages=messages, tools=[TOOL]) as stream:
        message = (await stream.get_final_completion()).choices[0].message
    [call] = message.tool_calls or []
    say(call.function.arguments)
    total = sum(json.loads(call.function.arguments).values())
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": str(total)}]
    answer = await sdks.openai.chat.completions.create(model="m", messages=[*messages, *asked(then)])
    say(answer.choices[0].message.content or "")


async def responses(task: int, sdks: SDKs, say: Say, then: str) -> None:
    say((await sdks.openai.responses.create(model="m", input=f"question {task}")).output_text)
    async with sdks.openai.responses.stream(model="m", input=then) as stream:
        say((await stream.get_final_response()).output_text)


async def messages(task: int, sdks: SDKs, say: Say, then: str) -> None:
    whole = await sdks.anthropic.messages.create(model="m", max_tokens=9, messages=asked(f"question {task}"))
    say(whole.content[0].to_dict()["text"])  # type: ignore[arg-type]
    async with sdks.anthropic.messages.stream(model="m", max_tokens=9, messages=asked(then)) as stream:
        say(await stream.get_final_text())


async def test_fifty_rollouts_replay_to_the_last_word_and_the_one_that_was_changed_is_found(sdks: SDKs) -> None:
    first, again, changed = Agent(sdks), Agent(sdks), Agent(sdks, changed=True)
    async with agl.InMemoryLightningStore() as store:
        with ScriptedModel(answers, takes_call=True) as model:
            rollouts = await record(first, store, model)
            calls = len(model.calls)
        # From here on there is no model.

        same = [await replay(store, rollout.rollout_id, again.made()) for rollout in rollouts]
        others = [await replay(store, rollouts[task].rollout_id, changed.made()) for task in (PLANTED - 1, PLANTED)]
        graded = await regrade(store, lambda task, output: float(output.startswith("answer ")))

    assert calls == sum(each.calls for each in same) == sum(each.played for each in same) == 2 * FIFTY
    assert [each for each in same if not each.same] == []
    assert again.heard == first.heard
    assert len({answer for heard in first.heard.values() for answer in heard}) == 2 * FIFTY
    assert [each.same for each in others] == [True, False]
    check_the_planted(others[1])
    assert [each.now for each in graded] == [1.0] * FIFTY


async def record(agent: Agent, store: agl.LightningStore, model: ScriptedModel) -> list[agl.Rollout]:
    async with LLMProxy(None, {"m": model.base_url}, store) as proxy:
        await store.add_resources({"llm": proxy.as_resource()})
        runner = agl.LitAgentRunner[Any](agl.LightningTracer())
        with runner.run_context(agent=agent.made(), store=store):
            rollouts = await asyncio.gather(*(runner.step(task) for task in range(FIFTY)))
    assert [rollout.status for rollout in rollouts] == ["succeeded"] * FIFTY
    return rollouts


def check_the_planted(replayed: Replayed) -> None:
    assert (replayed.played, replayed.status) == (1, "failed")
    assert replayed.difference == 'call 2 differs: input was "and then?", is "planted"'
