"""Model servers are not trusted: each bad response has a defined outcome for the agent, and a span."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import aiohttp
import openai
import pytest

import agentlightning as agl
from agentlightning.http.limits import Limits

from .conftest import HELLO, ProxyAttempt, post_chat, start_attempt, upstream

KEY = "corp/9f2c71d0-the-upstreams-key"
MIB = 1024 * 1024


@asynccontextmanager
async def raw_server(respond: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve responses that no HTTP library would send; yield the base URL."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
        try:
            await respond(writer)
        except ConnectionError:
            pass  # the proxy has closed the connection
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@asynccontextmanager
async def calls_to(
    respond: Callable[[asyncio.StreamWriter], Awaitable[None]] | bytes, store: agl.LightningStore, **limits: Any
) -> AsyncIterator[tuple[agl.LLMProxy, ProxyAttempt]]:
    """Start a proxy before a server with these responses; yield it and an attempt."""

    async def write(writer: asyncio.StreamWriter) -> None:
        if isinstance(respond, bytes):
            writer.write(respond)
            await writer.drain()
        else:
            await respond(writer)

    async with raw_server(write) as url:
        models = [upstream(url, api_key=KEY, retries=0, timeout=5)]
        async with agl.LLMProxy(model_list=models, store=store, limits=Limits(**limits)) as proxy:
            yield proxy, await start_attempt(store)


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def event_stream(body: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body


GZIP = "Content-Encoding: gzip"


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (response(gzip.compress(bytes(64 * MIB), mtime=0), GZIP), 502, "larger than 1048576 bytes"),
        (response(bytes(2 * MIB)), 502, r"1048576 bytes; .* raise --max-response \(Limits.upstream_response\)"),
        (response(gzip.compress(b'{"a": 1}', mtime=0)[:-9], GZIP), 502, "incomplete gzip data"),
        (response(b"no gzip", GZIP), 502, "invalid gzip data"),
        (response(b"x", "Content-Encoding: br"), 502, "content encoding 'br'"),
        (response(b"{}", "Location: http://127.0.0.1:1/", status="307 Temporary Redirect"), 502, "redirects the call"),
        (response(b"{}", status="999 Odd"), 502, "invalid HTTP status 999"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}", 502, "invalid or incomplete response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}", 502, "invalid or incomplete response"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 502, "invalid or incomplete response"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n{}", 502, "invalid or incomplete response"),
        (b"no HTTP at all\r\n\r\n", 502, "invalid or incomplete response"),
    ],
    ids=lambda value: "sent" if isinstance(value, bytes) else None,
)  # fmt: skip
async def test_bad_response_becomes_an_error_with_a_reason_and_a_span(
    store: agl.LightningStore, sent: bytes, status: int, reason: str
):
    async with calls_to(sent, store, upstream_response=MIB) as (proxy, attempt):
        started = time.process_time()
        async with attempt.openai(proxy) as client:
            with pytest.raises(openai.APIStatusError, match=reason) as caught:
                await client.chat.completions.create(model="m", messages=HELLO)

        assert caught.value.status_code == status
        assert time.process_time() - started < 2
        assert caught.value.body["message"] in ((await attempt.call()).error or "")  # type: ignore[index]


async def test_large_responses_together_are_limited(store: agl.LightningStore):
    async with calls_to(response(bytes(MIB)), store, bodies=MIB // 2) as (proxy, attempt):
        status, body = await post_chat(attempt.url(proxy))

        assert (status, b"Limits.bodies" in body) == (429, True)
        assert "Limits.bodies" in ((await attempt.call()).error or "")


async def test_gzip_of_many_members_is_read_in_linear_time(store: agl.LightningStore):
    content = gzip.compress(b"") * 100_000 + gzip.compress(b'{"a": 1}')
    async with calls_to(response(content, GZIP), store) as (proxy, attempt):
        started = time.process_time()

        assert await post_chat(attempt.url(proxy)) == (200, b'{"a": 1}')
        assert time.process_time() - started < 5


@pytest.mark.parametrize("wbits", [zlib.MAX_WBITS, 16 + zlib.MAX_WBITS])
async def test_compressed_response_is_decompressed(store: agl.LightningStore, wbits: int):
    body = json.dumps({"text": "x" * MIB}).encode()
    compressor = zlib.compressobj(wbits=wbits)
    sent = response(
        compressor.compress(body) + compressor.flush(), "Content-Encoding: " + ("gzip", "deflate")[wbits < 16]
    )

    async with calls_to(sent, store) as (proxy, attempt):
        assert await post_chat(attempt.url(proxy)) == (200, body)


async def test_event_beyond_the_limit_ends_the_stream_with_an_error_event(store: agl.LightningStore):
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(event_stream(b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n'))
        for _ in range(100):
            writer.write(b"data: x\n" * 8192)
            await writer.drain()

    async with calls_to(respond, store, upstream_event=2 * MIB) as (proxy, attempt):
        async with attempt.openai(proxy) as client:
            stream = aiter(await client.chat.completions.create(model="m", messages=HELLO, stream=True))
            first = await anext(stream)
            with pytest.raises(openai.APIError, match=r"event larger than 2097152 bytes; .* \(Limits.upstream_event\)"):
                await anext(stream)

        assert first.choices[0].delta.content == "Hi"
        await proxy.pause()
        call = await attempt.call()
        assert "Limits.upstream_event" in (call.error or "")
        assert call.output[0]["content"] == "Hi"


async def test_response_that_never_ends_is_ended_by_the_time_limit(store: agl.LightningStore):
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with calls_to(respond, store, upstream_seconds=0.3) as (proxy, attempt):
        status, body = await post_chat(attempt.url(proxy))

        assert (status, "longer than 0.3 s; raise --call-seconds (Limits.upstream_seconds)" in body.decode()) == (
            504,
            True,
        )
        assert "Limits.upstream_seconds" in ((await attempt.call()).error or "")


async def test_other_calls_continue_during_a_flood_of_events(store: agl.LightningStore):
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(event_stream())
        for _ in range(128):
            writer.write(b'data:\n\n"error"' * 4096)
            await writer.drain()

    async with (
        calls_to(respond, store, upstream_response=MIB) as (proxy, attempt),
        aiohttp.ClientSession() as client,
    ):
        flood = asyncio.create_task(post_chat(attempt.url(proxy), stream=True))
        while not flood.done():
            started = time.process_time()
            async with client.get(f"{proxy.endpoint}/health") as health:
                assert health.status == 200
            assert time.process_time() - started < 1  # the CPU time of this process, which includes the proxy
        with pytest.raises(aiohttp.ClientPayloadError):
            await flood


@pytest.mark.parametrize(
    ("value", "returned"),
    [
        *((value, None) for value in ("²", "-1", "1" + "0" * 400, "nan", "inf", "", "1e9", "٣", "soon")),
        ("Mon, 01 Jan 2001 00:00:00 GMT", None),
        ("7", "7"),
        ("1.5", "2"),
    ],
)
async def test_retry_after_is_returned_only_if_it_is_a_valid_delay(
    store: agl.LightningStore, value: str, returned: str | None
):
    sent = response(b"{}", "Content-Type: application/json", status="429 Busy").replace(
        b"\r\n\r\n", b"\r\nRetry-After: " + value.encode() + b"\r\n\r\n", 1
    )
    async with calls_to(sent, store) as (proxy, attempt), aiohttp.ClientSession() as client:
        retries = 1 if returned is None else 0  # the proxy ignores an invalid delay, too
        proxy.update_model_list([each.model_copy(update={"retries": retries}) for each in proxy.model_list])
        body = {"model": "m", "messages": HELLO}
        async with client.post(f"{attempt.url(proxy)}/chat/completions", json=body) as answer:
            assert (answer.status, answer.headers.get("retry-after")) == (429, returned)


@pytest.mark.parametrize("status", ["401 Unauthorized", "200 OK"])
async def test_upstreams_key_is_removed_from_its_response(store: agl.LightningStore, status: str):
    spellings = [KEY, KEY.replace("/", "\\/"), KEY.replace("/", "%2F")]
    body = json.dumps({"error": {"message": "keys"}}).encode()[:-1] + f', "x": "{" ".join(spellings)}"}}'.encode()
    headers = (f"X-Request-Id: {KEY}", "OpenAI-Version: 1", "Set-Cookie: a=b", "Connection: close", "X-Other: 1")

    async with (
        calls_to(response(body, *headers, status=status), store) as (proxy, attempt),
        aiohttp.ClientSession() as http,
    ):
        async with http.post(
            f"{attempt.url(proxy)}/chat/completions", json={"model": "m", "messages": HELLO}
        ) as answer:
            received, names = await answer.read(), {name.lower() for name in answer.headers}

        assert received.count(b"[redacted]") == 3
        assert b"9f2c71d0" not in received
        assert names == {"openai-version", "content-length", "date"}
        assert "9f2c71d0" not in (await attempt.spans())[0].model_dump_json()


async def test_upstreams_key_is_removed_from_a_stream(store: agl.LightningStore):
    sent = event_stream(f'data: {{"a": "{KEY}"}}\n\ndata: [DONE]\n\n'.encode())

    async with calls_to(sent, store) as (proxy, attempt):
        assert await post_chat(attempt.url(proxy), stream=True) == (
            200,
            b'data: {"a": "[redacted]"}\n\ndata: [DONE]\n\n',
        )
        assert "9f2c71d0" not in (await attempt.spans())[0].model_dump_json()


async def test_key_of_a_known_format_is_removed_from_an_error(store: agl.LightningStore):
    sent = response(b'{"error": {"message": "bad sk-another-0123456789abcdef"}}', status="401 Unauthorized")

    async with calls_to(sent, store) as (proxy, attempt):
        assert await post_chat(attempt.url(proxy)) == (401, b'{"error": {"message": "bad [redacted]"}}')


async def test_cookies_of_one_call_are_not_sent_with_another(store: agl.LightningStore):
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response(b"{}", "Set-Cookie: session=1; Path=/", "Connection: close"))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        # The cookie jar of a client ignores IP addresses.
        models = [upstream(f"http://localhost:{server.sockets[0].getsockname()[1]}/v1", retries=0)]
        async with agl.LLMProxy(model_list=models, store=store) as proxy:
            for _ in range(2):
                await post_chat(proxy.endpoint)

    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()


async def test_request_nested_too_deeply_for_a_change_is_refused(store: agl.LightningStore):
    async with calls_to(response(b"{}"), store) as (proxy, attempt):
        proxy.update_model_list([each.model_copy(update={"model": "other"}) for each in proxy.model_list])
        nested: Any = []
        for _ in range(300):
            nested = [nested]

        status, body = await post_chat(attempt.url(proxy), extra=nested)

        assert (status, b"nested too deeply" in body) == (400, True)


async def test_large_call_is_recorded_in_part(store: agl.LightningStore):
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": "y" * 20 * MIB}}]}).encode()

    async with calls_to(response(body), store, body=64 * MIB) as (proxy, attempt), aiohttp.ClientSession() as http:
        request = BytesIO(json.dumps({"model": "m", "messages": HELLO, "user": "x" * 20 * MIB}).encode())
        async with http.post(f"{attempt.url(proxy)}/chat/completions", data=request) as answer:
            assert len(await answer.read()) == len(body)
        call = await attempt.call()
        assert call.messages == HELLO
        assert "too large to record" in (await attempt.spans())[0].attributes["agentlightning.capture_error"]


async def test_slow_headers_and_bodies_of_agents_are_refused(store: agl.LightningStore):
    async with calls_to(response(b"{}"), store, head_seconds=0.2, body_seconds=0.2) as (proxy, _):
        for sent in (
            b"POST /v1/chat",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(sent)
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 408 ")
