"""Limits on the number of JSON values and events, which can take a hundred times as much memory as their text."""

from __future__ import annotations

import time
from io import BytesIO

import aiohttp
import pytest

import agentlightning as agl
from agentlightning.instrumentation.call_record import parse_object

from ..timing import quickest
from .conftest import HELLO, ProxyAttempt, post_chat
from .test_untrusted_servers import MIB, calls_to, event_stream, response

OBJECTS = b"[" + b"{}," * 8_000_000 + b"{}]"
FLOODS = {
    "empty error events": b'data:{"error":{}}\n\n' * 1_000_000,
    "empty events": b"data:{}\n\n" * 2_000_000,
    "empty lines": b"\n" * 4_000_000,
    "empty lines of other systems": b"\r\n" * 4_000_000,
}


async def post(url: str, body: bytes) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/chat/completions", data=BytesIO(body)) as answer,
    ):
        return answer.status, await answer.read()


async def test_request_with_too_many_values_gets_413_with_little_cpu_time(store: agl.LightningStore):
    body = b'{"model":"nope","x":' + OBJECTS + b"}"
    async with calls_to(response(b"{}"), store, body=64 * MIB) as (proxy, attempt):

        async def seconds() -> float:
            started = time.process_time()
            status, reason = await post(attempt.url(proxy), body)
            assert (status, b"500000 JSON values; raise --max-values (Limits.values)" in reason) == (413, True)
            return time.process_time() - started

        assert await quickest(seconds, 0.3) < 0.6


async def test_limit_on_the_values_of_a_request_can_be_set(store: agl.LightningStore):
    body = b'{"model":"m","messages":[],"stop":["a","b"]}'
    async with calls_to(response(b"{}"), store, values=6) as (proxy, attempt):
        assert (await post(attempt.url(proxy), body))[0] == 200
        assert (await post(attempt.url(proxy), body.replace(b'"a",', b'"a","c",')))[0] == 413


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
async def test_answer_with_too_many_values_is_returned_without_being_parsed(store: agl.LightningStore, status: str):
    body = b'{"id":"r","data":' + OBJECTS[: 12 * MIB].rpartition(b",")[0] + b"]}"
    async with calls_to(response(body, status=status), store) as (proxy, attempt):

        async def seconds() -> float:
            started = time.process_time()
            assert await post_chat(attempt.url(proxy)) == (int(status[:3]), body)
            return time.process_time() - started

        assert await quickest(seconds, 0.5) < 1
        span = (await attempt.spans())[0]
        assert "too many JSON values" in span.attributes["agentlightning.capture_error"]


def test_object_with_too_many_values_is_not_parsed():
    assert parse_object(b'{"a":' + OBJECTS + b"}") == {}


async def read_flood(proxy: agl.LLMProxy, attempt: ProxyAttempt) -> tuple[float, bytes]:
    """Return the CPU time of a call whose stream breaks, and the last part of the stream."""
    started, url, received = time.process_time(), f"{attempt.url(proxy)}/chat/completions", bytearray()

    async def read(answer: aiohttp.ClientResponse) -> None:
        async for part in answer.content.iter_any():
            received.extend(part)

    body = {"model": "m", "messages": HELLO, "stream": True}
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await read(answer)
    return time.process_time() - started, bytes(received[-1000:])


@pytest.mark.parametrize("kind", FLOODS)
async def test_stream_with_too_many_events_ends_with_an_error_event(store: agl.LightningStore, kind: str):
    async with calls_to(event_stream(FLOODS[kind]), store) as (proxy, attempt):

        async def seconds() -> float:
            used, last = await read_flood(proxy, attempt)
            assert b"more than 200000 events; raise --max-events (Limits.upstream_events)" in last
            return used

        assert await quickest(seconds, 3) < 6
        assert "Limits.upstream_events" in ((await attempt.calls())[0].error or "")


async def test_event_with_too_many_values_ends_the_stream_with_an_error_event(store: agl.LightningStore):
    sent = event_stream(b'data: {"choices":[]}\n\ndata: {"error":' + OBJECTS + b"}\n\n")
    async with calls_to(sent, store) as (proxy, attempt):

        async def seconds() -> float:
            used, last = await read_flood(proxy, attempt)
            assert b"more than 500000 JSON values; raise --max-values (Limits.values)" in last
            return used

        assert await quickest(seconds, 0.5) < 1


@pytest.mark.parametrize("start", [b':"\ndata: ', b'data: "\ndata: ', b'"\ndata: '])
async def test_event_that_hides_its_values_takes_little_cpu_time(store: agl.LightningStore, start: bytes):
    sent = start + b'{"error":' + OBJECTS[: 15 * MIB] + b"\n" + b"data: {}\n" * MIB + b"\n"
    async with calls_to(event_stream(sent), store) as (proxy, attempt):

        async def seconds() -> float:
            started = time.process_time()
            assert await post_chat(attempt.url(proxy), stream=True) == (200, sent)
            return time.process_time() - started

        assert await quickest(seconds, 1) < 2


async def test_many_events_below_the_limits_are_returned_unchanged(store: agl.LightningStore):
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"a, b"}}]}\r\n\r\n'
    sent = chunk * 199_999 + b"data: [DONE]\r\n\r\n"
    async with calls_to(event_stream(sent), store) as (proxy, attempt):
        assert await post_chat(attempt.url(proxy), stream=True) == (200, sent)
        call = await attempt.call()
        assert call.output[0]["content"] == "a, b" * 199_999


async def test_stream_with_too_many_values_is_recorded_without_its_content(store: agl.LightningStore):
    sent = b'data: {"x":' + b"[1" + b",1" * 400_000 + b"]}\n\n"
    async with calls_to(event_stream(sent * 6), store) as (proxy, attempt):
        assert (await post_chat(attempt.url(proxy), stream=True))[0] == 200
        span = (await attempt.spans())[0]
        assert "too many JSON values" in span.attributes["agentlightning.capture_error"]
