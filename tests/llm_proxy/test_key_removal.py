"""The keys of model servers, and keys in their error messages, in every notation that a server may use."""

from __future__ import annotations

import pytest

import agentlightning as agl
from agentlightning.llm_proxy.key_removal import UpstreamKey

from .conftest import post_chat
from .test_untrusted_servers import KEY, calls_to, event_stream, response

OTHER_KEY = "Upstream-Zx9/Key+Value-123456"
KNOWN = "sk-abcd1234efgh5678ijkl"
NOTATIONS = [
    OTHER_KEY,
    OTHER_KEY.replace("U", "\\u0055"),
    OTHER_KEY.replace("+", "\\u002b").replace("/", "\\/"),
    OTHER_KEY.replace("+", "\\\\u002B"),
    OTHER_KEY.replace("/", "&#x2F;"),
    OTHER_KEY.replace("/", "&#47;").replace("+", "&plus;"),
    OTHER_KEY.replace("/", "\\u0026#x2f;"),
    OTHER_KEY.replace("/", "&amp;#x2f;"),
    OTHER_KEY.replace("+", "%2B"),
    OTHER_KEY.replace("+", "%252b").replace("/", "%2F"),
    "".join(f"\\u{ord(character):04x}" for character in OTHER_KEY),
    "".join(f"\\x{ord(character):02x}" for character in OTHER_KEY),
]


@pytest.mark.parametrize("notation", NOTATIONS)
def test_key_is_removed_in_every_notation(notation: str):
    content = f'{{"error":{{"message":"bad key {notation}, 50% off"}}}}'.encode()

    assert UpstreamKey(OTHER_KEY).remove_from(content) == b'{"error":{"message":"bad key [redacted], 50% off"}}'


@pytest.mark.parametrize("status", ["401 Unauthorized", "200 OK"])
async def test_escaped_key_reaches_neither_the_agent_nor_the_store(store: agl.LightningStore, status: str):
    escaped = KEY.replace("c", "\\u0063").replace("/", "&#x2F;")
    sent = response(f'{{"error":{{"message":"bad key {escaped}"}}}}'.encode(), status=status)

    async with calls_to(sent, store) as (proxy, attempt):
        assert (await post_chat(attempt.url(proxy)))[1] == b'{"error":{"message":"bad key [redacted]"}}'
        assert "9f2c71d0" not in (await attempt.spans())[0].model_dump_json()


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error":{"message":"bad %b"}}\n\n',
        b'data: {"\\u0065rror":"bad %b"}\n\n',
        b'event: error\ndata: {"message":"bad %b"}\n\n',
        b'data: {"type":"error","message":"bad %b"}\r\n\r\n',
        b'data: {"type":"response.failed","response":{"error":{"message":"bad %b"}}}\n\n',
        b"data: error: bad %b\n\n",
    ],
)
async def test_keys_are_removed_from_error_events(store: agl.LightningStore, event: bytes):
    delta = b'data: {"choices":[{"index":0,"delta":{"content":"an error of %b"}}],"error":null}\n\n' % KNOWN.encode()
    sent = delta + event % KNOWN.encode()

    async with calls_to(event_stream(sent), store) as (proxy, attempt):
        assert await post_chat(attempt.url(proxy), stream=True) == (200, delta + event % b"[redacted]")


async def test_keys_are_removed_from_an_error_with_status_200(store: agl.LightningStore):
    async with calls_to(response(b'{"error":"bad %b"}' % KNOWN.encode()), store) as (proxy, attempt):
        assert await post_chat(attempt.url(proxy)) == (200, b'{"error":"bad [redacted]"}')
