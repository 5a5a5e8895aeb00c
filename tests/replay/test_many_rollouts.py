"""Many recorded rollouts, chats, tools and streams mixed: each replays exactly, without a model."""

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
from agentlightning.replay import regrade, replay
from tests.scripted_model import Answer, Call, ScriptedModel

ROLLOUTS = 10
CHANGED = 3
"""The task for which the changed agent sends another second request."""

TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
Record = Callable[[str], None]


def answer(call: Call) -> Answer:
    """Answer each call differently, with its number, which a replay cannot guess."""
    last = (call.body.get("messages") or [{"role": "user"}])[-1]
    if call.body.get("tools") and last["role"] == "user":
        return Answer(tool_calls=[("add", {"a": call.number, "b": 1})])
    return Answer(f"answer {call.number} to {call.question}")


class Clients:
    """Clients of one connection pool for all agents: creating one costs more than many calls."""

    def __init__(self, openai: AsyncOpenAI, anthropic: AsyncAnthropic) -> None:
        self.openai, self.anthropic = openai, anthropic

    def at(self, llm: agl.LLM) -> Clients:
        return Clients(
            self.openai.with_options(base_url=llm.endpoint),
            self.anthropic.with_options(base_url=llm.endpoint.removesuffix("/v1")),
        )


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with (
        AsyncOpenAI(base_url="http://nowhere", api_key="sk-none", max_retries=0) as openai,
        AsyncAnthropic(base_url="http://nowhere", api_key="none", max_retries=0) as anthropic,
    ):
        yield Clients(openai, anthropic)


class RecordingAgent:
    """Uses one of five APIs for each task, and keeps all responses."""

    def __init__(self, clients: Clients, *, changed: bool = False) -> None:
        self.responses: dict[int, list[str]] = {}
        self._clients = clients
        self._changed = changed

    def build(self) -> Any:
        @agl.rollout
        async def agent(task: int, llm: agl.LLM) -> float:
            responses = self.responses[task] = []
            api = (chat, chat_stream, tools, responses_api, messages_api)[task % 5]
            second = "changed" if self._changed and task == CHANGED else "and then?"
            await api(task, self._clients.at(llm), responses.append, second)
            return float(len("".join(responses)))

        return agent


def user(*texts: str) -> Any:
    return [{"role": "user", "content": text} for text in texts]


async def chat(task: int, clients: Clients, record: Record, second: str) -> None:
    for question in (f"question {task}", second):
        response = await clients.openai.chat.completions.create(model="m", messages=user(question))
        record(response.choices[0].message.content or "")


async def chat_stream(task: int, clients: Clients, record: Record, second: str) -> None:
    for question in (f"question {task}", second):
        stream = await clients.openai.chat.completions.create(model="m", messages=user(question), stream=True)
        record("".join([chunk.choices[0].delta.content or "" async for chunk in stream]))


async def tools(task: int, clients: Clients, record: Record, second: str) -> None:
    messages = user(f"question {task}")
    async with clients.openai.chat.completions.stream(model="m", messages=messages, tools=[TOOL]) as stream:
        message = (await stream.get_final_completion()).choices[0].message
    [call] = message.tool_calls or []
    record(call.function.arguments)
    total = sum(json.loads(call.function.arguments).values())
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": str(total)}]
    response = await clients.openai.chat.completions.create(model="m", messages=[*messages, *user(second)])
    record(response.choices[0].message.content or "")


async def responses_api(task: int, clients: Clients, record: Record, second: str) -> None:
    record((await clients.openai.responses.create(model="m", input=f"question {task}")).output_text)
    async with clients.openai.responses.stream(model="m", input=second) as stream:
        record((await stream.get_final_response()).output_text)


async def messages_api(task: int, clients: Clients, record: Record, second: str) -> None:
    whole = await clients.anthropic.messages.create(model="m", max_tokens=9, messages=user(f"question {task}"))
    record(whole.content[0].to_dict()["text"])  # type: ignore[arg-type]
    async with clients.anthropic.messages.stream(model="m", max_tokens=9, messages=user(second)) as stream:
        record(await stream.get_final_text())


async def test_recorded_rollouts_replay_exactly_and_a_changed_agent_is_detected(clients: Clients):
    first, again, changed = RecordingAgent(clients), RecordingAgent(clients), RecordingAgent(clients, changed=True)
    async with agl.InMemoryLightningStore() as store:
        with ScriptedModel(answer, takes_call=True) as model:
            rollouts = await record_all(first, store, model)
            calls = len(model.calls)
        # The model has stopped; replays cannot call it.

        results = [await replay(store, rollout.rollout_id, again.build()) for rollout in rollouts]
        neighbours = [
            await replay(store, rollouts[task].rollout_id, changed.build()) for task in (CHANGED - 1, CHANGED)
        ]
        graded = await regrade(store, lambda task, output: float(output.startswith("answer ")))

    assert calls == sum(result.matched_calls for result in results) == 2 * ROLLOUTS
    assert [result for result in results if not result.is_identical] == []
    assert again.responses == first.responses
    assert len({text for texts in first.responses.values() for text in texts}) == 2 * ROLLOUTS
    assert [result.is_identical for result in neighbours] == [True, False]
    assert (neighbours[1].matched_calls, neighbours[1].status) == (1, "failed")
    assert neighbours[1].difference == 'call 2 differs: input was "and then?", is "changed"'
    assert [result.reward for result in graded] == [1.0] * ROLLOUTS


async def record_all(agent: RecordingAgent, store: agl.LightningStore, model: ScriptedModel) -> list[agl.Rollout]:
    async with LLMProxy(None, {"m": model.base_url}, store) as proxy:
        await store.add_resources({"llm": proxy.as_resource()})
        runner = agl.LitAgentRunner[Any](agl.LightningTracer())
        with runner.run_context(agent=agent.build(), store=store):
            rollouts = await asyncio.gather(*(runner.step(task) for task in range(ROLLOUTS)))
    assert [rollout.status for rollout in rollouts] == ["succeeded"] * ROLLOUTS
    return rollouts
