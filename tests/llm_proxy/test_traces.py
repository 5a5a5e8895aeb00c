"""Where the proxy's spans stand: in their attempt's own trace, whatever the agent says of it, and in their order."""

from __future__ import annotations

import aiohttp
import openai
import pytest

import agentlightning as agl
from agentlightning.adapter import llm_calls
from tests.scripted_model import ScriptedModel

from .conftest import Attempt

HELLO = [{"role": "user", "content": "Hello"}]
AGENTS = f"00-{'a' * 32}-{'b' * 16}-01"
OUTER = f"00-{'c' * 32}-{'d' * 16}-01"


async def test_the_agents_trace_goes_on_in_the_proxys_span(proxy: agl.LLMProxy, attempt: Attempt):
    async with attempt.openai(proxy, default_headers={"traceparent": AGENTS}) as client:
        await client.chat.completions.create(model="m", messages=HELLO)

    [span] = await attempt.spans()
    assert (span.trace_id, span.parent_id) == ("a" * 32, "b" * 16)


async def test_a_program_that_sends_no_trace_has_it_in_its_address(proxy: agl.LLMProxy, attempt: Attempt):
    url = attempt.url(proxy).removesuffix("/v1") + f"/trace/{OUTER}"

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        await client.chat.completions.create(model="m", messages=HELLO)
        await client.chat.completions.create(model="m", messages=HELLO, extra_headers={"traceparent": AGENTS})

    spans = await attempt.spans()
    assert [(span.trace_id, span.parent_id) for span in spans] == [("c" * 32, "d" * 16), ("a" * 32, "b" * 16)]
    assert [span.sequence_id for span in spans] == [1, 2]


@pytest.mark.parametrize("nonsense", ["trace/mine", "trace/00-zz", "trace"])
async def test_an_address_with_something_else_for_a_trace_is_refused(
    proxy: agl.LLMProxy, attempt: Attempt, nonsense: str
):
    url = attempt.url(proxy).removesuffix("/v1") + f"/{nonsense}/v1/chat/completions"

    async with aiohttp.ClientSession() as session, session.post(url, json={"model": "m", "messages": HELLO}) as refused:
        assert refused.status == 404


@pytest.mark.parametrize("tracer", [agl.LightningTracer, agl.OtelTracer, agl.DummyTracer])
async def test_what_a_python_agents_tracer_and_the_proxy_see_is_one_trace(
    tracer: type[agl.Tracer], model: ScriptedModel, proxy: agl.LLMProxy, store: agl.LightningStore
):
    @agl.rollout
    async def agent(task: str, llm: agl.LLM) -> float:
        async with openai.AsyncOpenAI(base_url=llm.get_base_url(), api_key="none") as client:
            for turn in ("first", "second"):
                with agl.operation(name=turn):
                    said = [{"role": "user", "content": f"{task}: {turn}"}]
                    await client.chat.completions.create(model=llm.model, messages=said)
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
