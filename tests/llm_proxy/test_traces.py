"""Trace, parent and order of the proxy's spans."""

from __future__ import annotations

from typing import Any

import aiohttp
import openai
import pytest

import agentlightning as agl
from agentlightning.adapter import llm_calls
from tests.scripted_model import ScriptedModel

from .conftest import HELLO, ProxyAttempt

HEADER = f"00-{'a' * 32}-{'b' * 16}-01"
IN_URL = f"00-{'c' * 32}-{'d' * 16}-01"


async def test_parent_is_from_the_header_or_else_from_the_url(proxy: agl.LLMProxy, attempt: ProxyAttempt):
    url = attempt.url(proxy).removesuffix("/v1") + f"/trace/{IN_URL}"

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        await client.chat.completions.create(model="m", messages=HELLO)
        await client.chat.completions.create(model="m", messages=HELLO, extra_headers={"traceparent": HEADER})

    spans = await attempt.spans()
    assert [(span.trace_id, span.parent_id) for span in spans] == [("c" * 32, "d" * 16), ("a" * 32, "b" * 16)]
    assert [span.sequence_id for span in spans] == [1, 2]


@pytest.mark.parametrize("trace", ["trace/mine", "trace/00-zz", "trace"])
async def test_url_with_an_invalid_trace_is_not_found(proxy: agl.LLMProxy, attempt: ProxyAttempt, trace: str):
    url = attempt.url(proxy).removesuffix("/v1") + f"/{trace}/v1/chat/completions"

    async with aiohttp.ClientSession() as session, session.post(url, json={"model": "m", "messages": HELLO}) as refused:
        assert refused.status == 404


@pytest.mark.parametrize("tracer", [agl.LightningTracer, agl.OtelTracer, agl.DummyTracer])
async def test_spans_of_the_agents_tracer_and_of_the_proxy_are_one_trace(
    tracer: type[agl.Tracer], model: ScriptedModel, proxy: agl.LLMProxy, store: agl.LightningStore
):
    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        async with openai.AsyncOpenAI(base_url=llm.get_base_url(), api_key="none") as client:
            for turn in ("first", "second"):
                with agl.operation(name=turn):
                    messages: Any = [{"role": "user", "content": f"{task}: {turn}"}]
                    await client.chat.completions.create(model=llm.model, messages=messages)
        return 1.0

    await store.add_resources({"llm": proxy.as_resource()})
    runner = agl.LitAgentRunner(tracer())
    with runner.run_context(agent=agent, store=store):
        rollout = await runner.step("a task")

    spans = await store.query_spans(rollout.rollout_id)
    assert len({span.trace_id for span in spans}) == 1
    assert [span.sequence_id for span in spans] == list(range(1, len(spans) + 1))
    assert [call.messages[0]["content"] for call in llm_calls(spans)] == ["a task: first", "a task: second"]
    names = [span.name for span in spans]
    assert names.count("openai.chat.completion") == (4 if tracer is agl.LightningTracer else 2)
    assert agl.is_reward_span(spans[-1])
