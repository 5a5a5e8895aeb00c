"""Model servers by name: replaced, paused, drained and limited while calls are in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

import agentlightning as agl
from agentlightning.llm_proxy import Upstream
from tests.scripted_model import ScriptedModel

from .conftest import HELLO, ProxyAttempt, serve_app, upstream


class BlockingServer:
    """A model server that answers once it is unblocked, and counts its calls in flight."""

    def __init__(self, text: str = "done") -> None:
        self.text = text
        self.arrived: asyncio.Queue[None] = asyncio.Queue()
        self.max_in_flight = self._in_flight = 0
        self._loop = asyncio.get_running_loop()
        self._unblocked = asyncio.Event()

    def unblock(self) -> None:
        self._unblocked.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        self._loop.call_soon_threadsafe(self.arrived.put_nowait, None)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._unblocked.wait(), self._loop))
        self._in_flight -= 1
        body = b'{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"%b"}}]}' % self.text.encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def blocking_server(text: str = "done") -> AsyncIterator[tuple[BlockingServer, str]]:
    server = BlockingServer(text)
    async with serve_app(server) as url:
        yield server, url


@pytest.fixture
async def client(proxy: agl.LLMProxy, attempt: ProxyAttempt) -> AsyncIterator[openai.AsyncOpenAI]:
    async with attempt.openai(proxy) as opened:
        yield opened


async def ask(client: openai.AsyncOpenAI, model: str = "m") -> str | None:
    response = await client.chat.completions.create(model=model, messages=HELLO)
    return response.choices[0].message.content


async def test_call_in_flight_keeps_its_server_when_the_server_is_replaced(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI
):
    async with blocking_server("before") as (before, first), blocking_server("after") as (after, second):
        after.unblock()
        proxy.update_model_list([upstream(first)])
        in_flight = asyncio.create_task(ask(client))
        await before.arrived.get()

        proxy.update_model_list([upstream(second)])

        assert await ask(client) == "after"
        before.unblock()
        assert await in_flight == "before"


async def test_servers_are_replaced_under_load_without_a_lost_call(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    with ScriptedModel("one") as one, ScriptedModel("two") as two:
        proxy.update_model_list({"m": one.base_url})

        async def ask_repeatedly() -> list[str | None]:
            return [await ask(client) for _ in range(5)]

        clients = [asyncio.create_task(ask_repeatedly()) for _ in range(10)]
        for number in range(20):
            proxy.update_model_list({"m": (two if number % 2 else one).base_url})
            await asyncio.sleep(0)
        answers = [answer for answers in await asyncio.gather(*clients) for answer in answers]

    assert len(answers) == len(one.calls) + len(two.calls) == 50
    assert set(answers) <= {"one", "two"}


async def test_calls_to_a_paused_model_wait_and_then_go_to_its_current_server(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel, attempt: ProxyAttempt
):
    with ScriptedModel("with new weights") as updated:
        async with proxy.paused(policy_version="step-2"):
            waiting = asyncio.create_task(ask(client))
            _, still_waiting = await asyncio.wait({waiting}, timeout=0.1)
            assert still_waiting
            proxy.update_model_list({"m": updated.base_url})

        assert await waiting == "with new weights"

    assert model.calls == []
    assert (await attempt.call()).policy_version == "step-2"


async def test_pause_waits_for_calls_in_flight(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    async with blocking_server() as (server, url):
        proxy.update_model_list([upstream(url)])
        in_flight = asyncio.create_task(ask(client))
        await server.arrived.get()

        pausing = asyncio.create_task(proxy.pause())
        await asyncio.wait({pausing}, timeout=0.1)
        assert not pausing.done()
        server.unblock()
        await pausing

        assert await in_flight == "done"
    await proxy.resume()


async def test_pause_of_one_model_does_not_delay_another(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel
):
    proxy.update_model_list({"m": model.base_url, "other": model.base_url})

    async with proxy.paused("m"):
        assert await ask(client, "other") == "You said: Hello"

    assert await ask(client) == "You said: Hello"


async def test_calls_in_flight_stay_within_max_concurrency(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    async with blocking_server() as (server, url):
        proxy.update_model_list([upstream(url, max_concurrency=2)])
        calls = [asyncio.create_task(ask(client)) for _ in range(6)]
        for _ in range(2):
            await server.arrived.get()
        server.unblock()

        assert await asyncio.gather(*calls) == ["done"] * 6

    assert server.max_in_flight == 2


async def test_calls_beyond_max_waiting_get_429_with_retry_after(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    async with blocking_server() as (server, url):
        proxy.update_model_list([upstream(url, max_concurrency=1, max_waiting=0)])
        first = asyncio.create_task(ask(client))
        await server.arrived.get()

        with pytest.raises(openai.RateLimitError, match="already waiting") as refused:
            await ask(client)

        assert refused.value.response.headers["retry-after"] == "1"
        server.unblock()
        assert await first == "done"


async def test_calls_keep_to_requests_per_minute(proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel):
    proxy.update_model_list([Upstream(name="m", url=model.base_url, requests_per_minute=600)])
    started = time.monotonic()

    await asyncio.gather(*(ask(client) for _ in range(13)))

    # Ten per second; those of the first second may start at once.
    assert time.monotonic() - started >= 0.2


async def test_less_busy_of_two_servers_with_one_name_is_selected(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    async with blocking_server("one") as (one, first), blocking_server("two") as (two, second):
        proxy.update_model_list([upstream(first), upstream(second)])
        calls = [asyncio.create_task(ask(client)) for _ in range(4)]
        for server in (one, two, one, two):
            await server.arrived.get()
        one.unblock()
        two.unblock()

        assert sorted(filter(None, await asyncio.gather(*calls))) == ["one", "one", "two", "two"]


async def test_server_gets_its_own_name_for_the_model(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel
):
    proxy.update_model_list([Upstream(name="m", url=model.base_url, model="org/served")])

    await ask(client)

    assert model.calls[0].body["model"] == "org/served"


async def test_upstream_for_any_name_serves_all_other_models(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, model: ScriptedModel
):
    proxy.update_model_list({"*": model.base_url})

    assert await ask(client, "whatever") == "You said: Hello"


async def test_server_that_does_not_respond_in_time_gives_504(proxy: agl.LLMProxy, client: openai.AsyncOpenAI):
    async with blocking_server() as (server, url):
        proxy.update_model_list([upstream(url, timeout=0.1, retries=0)])

        with pytest.raises(openai.InternalServerError, match="did not respond in time") as refused:
            await ask(client)

        server.unblock()
    assert refused.value.status_code == 504


async def test_calls_record_the_policy_version_of_their_start(
    proxy: agl.LLMProxy, client: openai.AsyncOpenAI, attempt: ProxyAttempt
):
    await ask(client)
    proxy.set_policy_version("step-1")
    await ask(client)
    proxy.set_policy_version("step-2", "m")
    await ask(client)

    assert [call.policy_version for call in await attempt.calls()] == [None, "step-1", "step-2"]


# Model lists


def test_litellm_notation_is_converted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_KEY", "sk-from-environment")
    params = {"model": "hosted_vllm/org/model", "api_base": "http://gpu:8000/v1", "api_key": "os.environ/SOME_KEY"}

    [parsed] = agl.LLMProxy(model_list=[{"model_name": "m", "litellm_params": params}]).model_list

    assert (parsed.name, parsed.url, parsed.model) == ("m", "http://gpu:8000/v1", "org/model")
    assert parsed.api_key == "sk-from-environment"


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
def test_kind_and_endpoints_are_derived_from_the_url(url: str, kind: str, endpoint: str):
    parsed = Upstream(name="m", url=url)

    assert (parsed.addressed_as, parsed.endpoint("chat/completions")) == (kind, endpoint)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "m"}, "url: Field required"),
        ({"name": "m", "url": "gpu:8000"}, "must start with http"),
        ({"name": "m", "url": "http://gpu", "speed": 9}, "speed"),
    ],
)
def test_invalid_model_list_names_the_field(entry: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        agl.LLMProxy(model_list=[entry])
