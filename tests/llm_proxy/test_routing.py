"""Servers by name: exchanged, paused, drained and limited while calls are under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

import agentlightning as agl
from agentlightning.llm_proxy import Upstream
from tests.scripted_model import Answer, ScriptedModel

from .conftest import Attempt, serving

HELLO = [{"role": "user", "content": "Hello"}]


class Doorman:
    """A server that answers when it is told to, and knows how many calls it has."""

    def __init__(self, word: str = "done") -> None:
        self.word = word
        self.arrived: asyncio.Queue[None] = asyncio.Queue()
        self.most_at_once = self._at_once = 0
        self._home = asyncio.get_running_loop()
        self._go_on = asyncio.Event()

    def open(self) -> None:
        self._go_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self._home.call_soon_threadsafe(self.arrived.put_nowait, None)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._go_on.wait(), self._home))
        self._at_once -= 1
        body = b'{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"%b"}}]}' % self.word.encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def client(proxy: agl.LLMProxy, attempt: Attempt) -> AsyncIterator[openai.AsyncOpenAI]:
    async with attempt.openai(proxy) as opened:
        yield opened


async def said(client: openai.AsyncOpenAI, model: str = "m") -> str | None:
    answer = await client.chat.completions.create(model=model, messages=HELLO)
    return answer.choices[0].message.content


async def test_a_call_under_way_ends_as_it_began_when_its_server_is_exchanged(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI
):
    before, after = Doorman("before"), Doorman("after")
    after.open()
    async with serving(before) as first, serving(after) as second:
        proxy.update_model_list({"m": first})
        under_way = asyncio.create_task(said(client))
        await before.arrived.get()

        proxy.update_model_list({"m": second})

        assert await said(client) == "after"
        before.open()
        assert await under_way == "before"


async def test_servers_are_exchanged_under_load_without_a_lost_call(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    with ScriptedModel("one") as one, ScriptedModel("two") as two:
        proxy.update_model_list({"m": one.base_url})

        async def ask_often() -> list[str | None]:
            return [await said(client) for _ in range(10)]

        asking = [asyncio.create_task(ask_often()) for _ in range(10)]
        for number in range(20):
            proxy.update_model_list({"m": (two if number % 2 else one).base_url})
            await asyncio.sleep(0)
        answers = [answer for answers in await asyncio.gather(*asking) for answer in answers]

    assert len(answers) == 100
    assert set(answers) <= {"one", "two"}
    assert len(one.calls) + len(two.calls) == 100


async def test_while_a_model_is_paused_calls_wait_and_then_go_to_the_server_it_has_by_then(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel, attempt: Attempt
):
    with ScriptedModel("with new weights") as renewed:
        async with proxy.paused(policy_version="step-2"):
            waiting = asyncio.create_task(said(client))
            _, still_waiting = await asyncio.wait({waiting}, timeout=0.2)
            assert still_waiting
            proxy.update_model_list({"m": renewed.base_url})

        assert await waiting == "with new weights"

    assert model.calls == []
    assert (await attempt.call()).policy_version == "step-2"


async def test_pausing_waits_for_the_calls_under_way(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    doorman = Doorman()
    async with serving(doorman) as url:
        proxy.update_model_list({"m": url})
        under_way = asyncio.create_task(said(client))
        await doorman.arrived.get()

        pausing = asyncio.create_task(proxy.pause())
        await asyncio.wait({pausing}, timeout=0.2)
        assert not pausing.done()
        doorman.open()
        await pausing

        assert await under_way == "done"
    await proxy.resume()


async def test_pausing_one_model_does_not_hold_up_another(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel
):
    proxy.update_model_list({"m": model.base_url, "other": model.base_url})

    async with proxy.paused("m"):
        assert await said(client, "other") == "You said: Hello"

    assert await said(client) == "You said: Hello"


async def test_no_more_calls_at_once_than_a_server_takes(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    doorman = Doorman()
    async with serving(doorman) as url:
        proxy.update_model_list([Upstream(name="m", url=url, max_concurrency=2)])
        calls = [asyncio.create_task(said(client)) for _ in range(6)]
        for _ in range(2):
            await doorman.arrived.get()
        doorman.open()

        assert await asyncio.gather(*calls) == ["done"] * 6

    assert doorman.most_at_once == 2


async def test_more_than_may_wait_are_told_to_come_back(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    doorman = Doorman()
    async with serving(doorman) as url:
        proxy.update_model_list([Upstream(name="m", url=url, max_concurrency=1, max_waiting=0)])
        first = asyncio.create_task(said(client))
        await doorman.arrived.get()

        with pytest.raises(openai.RateLimitError, match="already wait") as refused:
            await said(client)

        assert refused.value.response.headers["retry-after"] == "1"
        doorman.open()
        assert await first == "done"


async def test_calls_keep_to_the_rate_a_server_takes(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel
):
    proxy.update_model_list([Upstream(name="m", url=model.base_url, requests_per_minute=600)])
    started = time.monotonic()

    await asyncio.gather(*(said(client) for _ in range(15)))

    # Ten a second, of which the first second's may come at once.
    assert time.monotonic() - started >= 0.4


async def test_of_two_servers_with_one_name_the_less_busy_is_asked(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    one, two = Doorman("one"), Doorman("two")
    async with serving(one) as first, serving(two) as second:
        proxy.update_model_list([{"name": "m", "url": first}, {"name": "m", "url": second}])
        calls = [asyncio.create_task(said(client)) for _ in range(4)]
        for doorman in (one, two, one, two):
            await doorman.arrived.get()
        one.open()
        two.open()

        assert sorted(filter(None, await asyncio.gather(*calls))) == ["one", "one", "two", "two"]


async def test_a_server_may_know_the_model_by_another_name(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel
):
    proxy.update_model_list([Upstream(name="m", url=model.base_url, model="org/served")])

    await said(client)

    assert model.calls[0].body["model"] == "org/served"


async def test_an_upstream_for_any_name_takes_what_is_named_after_no_other(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel
):
    proxy.update_model_list({"*": model.base_url})

    assert await said(client, "whatever") == "You said: Hello"


async def test_a_server_that_does_not_answer_in_time_is_given_up(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel
):
    model.script(Answer("late", delay=5))
    proxy.update_model_list([Upstream(name="m", url=model.base_url, timeout=0.2, retries=0)])

    with pytest.raises(openai.InternalServerError, match="did not respond in time") as refused:
        await said(client)

    assert refused.value.status_code == 504


async def test_calls_are_stamped_with_the_weights_that_answer_them(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, attempt: Attempt
):
    await said(client)
    proxy.set_policy_version("step-1")
    await said(client)
    proxy.set_policy_version("step-2", "m")
    await said(client)

    assert [call.policy_version for call in await attempt.calls()] == [None, "step-1", "step-2"]


# How upstreams may be written


def test_litellms_spelling_is_understood(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_KEY", "sk-from-environment")
    params = {"model": "hosted_vllm/org/model", "api_base": "http://gpu:8000/v1", "api_key": "os.environ/SOME_KEY"}

    [upstream] = agl.LLMProxy(model_list=[{"model_name": "m", "litellm_params": params}]).model_list

    assert (upstream.name, upstream.url, upstream.model) == ("m", "http://gpu:8000/v1", "org/model")
    assert upstream.api_key == "sk-from-environment"


@pytest.mark.parametrize(
    ("url", "kind", "endpoint"),
    [
        ("http://localhost:8000", "openai", "http://localhost:8000/v1/chat/completions"),
        ("http://localhost:8000/v1/", "openai", "http://localhost:8000/v1/chat/completions"),
        ("https://host/v1beta/openai", "openai", "https://host/v1beta/openai/chat/completions"),
        ("https://api.anthropic.com", "anthropic", "https://api.anthropic.com/v1/chat/completions"),
        (
            "https://x.openai.azure.com/openai/deployments/d?api-version=1",
            "azure",
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=1",
        ),
    ],
)
def test_a_servers_kind_and_paths_are_told_from_its_url(url: str, kind: str, endpoint: str):
    upstream = Upstream(name="m", url=url)

    assert (upstream.addressed_as, upstream.endpoint("chat/completions")) == (kind, endpoint)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "m"}, "url: Field required"),
        ({"name": "m", "url": "gpu:8000"}, "starts with http"),
        ({"name": "m", "url": "http://gpu", "speed": 9}, "speed"),
    ],
)
def test_a_model_list_that_is_wrong_says_where(entry: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        agl.LLMProxy(model_list=[entry])
