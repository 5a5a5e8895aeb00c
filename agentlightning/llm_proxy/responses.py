"""Reading of model servers' responses, which are not trusted: limits, decompression, headers and API keys."""

from __future__ import annotations

import asyncio
import math
import re
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Final, ParamSpec, TypeVar
from urllib.parse import quote

import aiohttp

from ..http.limits import Limits
from ..redaction import contains_keys, redact_bytes
from .errors import ProxyError
from .upstreams import Upstream

P = ParamSpec("P")
T = TypeVar("T")

OFFLOADED_SIZE: Final = 256 * 1024
"""Size in bytes of JSON above which it is processed in a thread. Smaller JSON takes a few milliseconds at most."""
MIN_KEY_LENGTH: Final = 8
"""Minimum length of an upstream's API key to be removed from its responses. Shorter ones, such as `none`, are words."""
MAX_RETURNED_HEADERS: Final = 50

_DECOMPRESSED_AT_ONCE: Final = 64 * 1024
_COMPRESSED_AT_ONCE: Final = 4 * 1024
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_RETURNED_HEADERS = ("content-type", "request-id", "x-request-id")
_RETURNED_HEADER_PREFIXES = ("openai-", "anthropic-", "x-ratelimit-")
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


async def offload_if_large(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the function, in a thread if `size` exceeds `OFFLOADED_SIZE`."""
    if size > OFFLOADED_SIZE:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)


class UpstreamResponse:
    """A response from a model server."""

    def __init__(self, response: aiohttp.ClientResponse, upstream: Upstream, limits: Limits) -> None:
        """Raises `ProxyError` if the response cannot be returned to an agent."""
        self._response = response
        self._upstream = upstream
        self._limit = limits.upstream_response
        self._keys = _spellings(upstream.api_key)
        self.status = response.status
        if 300 <= self.status < 400:
            raise self.error("redirects the call to another address; set its final url in the model list")
        if not 200 <= self.status < 600:
            raise self.error(f"sent the invalid HTTP status {self.status}")

    def error(self, problem: str) -> ProxyError:
        """Return an exception that names the server."""
        return ProxyError(f"the server for model {self._upstream.name!r} {problem}", 502)

    @property
    def is_stream(self) -> bool:
        return "text/event-stream" in self._response.headers.get("content-type", "")

    @property
    def retry_after(self) -> float | None:
        """The delay in seconds from the Retry-After header, or None if it is missing, invalid or in the past."""
        value = self._response.headers.get("retry-after", "")
        if _SECONDS.fullmatch(value):
            return float(value)
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, IndexError, OverflowError):
            return None
        return seconds if seconds > 0 else None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers to return to the agent. Values with API keys or unusual characters are left out."""
        headers: list[tuple[bytes, bytes]] = []
        for name, value in self._response.headers.items():
            name = name.lower()
            is_returned = name in _RETURNED_HEADERS or name.startswith(_RETURNED_HEADER_PREFIXES)
            if is_returned and value.isascii() and value.isprintable() and not self._contains_keys(value.encode()):
                headers.append((name.encode(), value.encode()))
        if self.retry_after is not None:
            headers.insert(0, (b"retry-after", str(math.ceil(self.retry_after)).encode()))
        return headers[:MAX_RETURNED_HEADERS]

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the decompressed content. Raises `ProxyError` if it is too large or is not compressed correctly."""
        size = 0
        async for chunk in self._decompressed():
            size += len(chunk)
            if size > self._limit:
                remedy = "ask for less, or raise --max-response (Limits.upstream_response)"
                raise self.error(f"sent a response larger than {self._limit} bytes; {remedy}")
            yield chunk

    async def read(self) -> bytes:
        """Return the whole content. Raises `ProxyError` like `chunks`."""
        return b"".join([chunk async for chunk in self.chunks()])

    def without_keys(self, content: bytes) -> bytes:
        """Remove the upstream's API key from the content, and everything else that looks like a key from an error."""
        for key in self._keys:
            if key in content:
                content = content.replace(key, b"[redacted]")
        return redact_bytes(content) if self.status >= 400 else content

    def _contains_keys(self, value: bytes) -> bool:
        return contains_keys(value) or any(key in value for key in self._keys)

    async def _decompressed(self) -> AsyncGenerator[bytes]:
        encoding = self._response.headers.get("content-encoding", "").strip().lower()
        received = self._response.content.iter_any()
        if encoding in ("", "identity"):
            async for chunk in received:
                yield chunk
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise self.error(f"sent the content encoding {encoding[:40]!r}, although the proxy did not accept any")
        decompressor = _Decompressor()
        try:
            async for chunk in received:
                for piece in decompressor.decompress(chunk):
                    yield piece
                    await asyncio.sleep(0)  # other calls continue while a small chunk yields a lot of content
        except zlib.error as error:
            raise self.error(f"sent invalid {encoding} data: {error}") from None
        if not decompressor.is_complete:
            raise self.error(f"sent incomplete {encoding} data")


class _Decompressor:
    """Decompresses gzip or zlib data in small steps. The time is linear, also for many members of a gzip file."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_OR_ZLIB)

    @property
    def is_complete(self) -> bool:
        return self._member.eof

    def decompress(self, data: bytes) -> Iterator[bytes]:
        """Yield the content of `data` in pieces of limited size. A piece may be empty."""
        for start in range(0, len(data), _COMPRESSED_AT_ONCE):
            rest = data[start : start + _COMPRESSED_AT_ONCE]
            piece = b""
            while rest or (len(piece) == _DECOMPRESSED_AT_ONCE and not self._member.eof):
                if self._member.eof:
                    self._member = zlib.decompressobj(_GZIP_OR_ZLIB)
                piece = self._member.decompress(rest, _DECOMPRESSED_AT_ONCE)
                rest = self._member.unconsumed_tail or self._member.unused_data
                if piece:
                    yield piece
            yield b""


def _spellings(key: str | None) -> frozenset[bytes]:
    """Return the ways to write an API key in JSON and in a URL."""
    if key is None or len(key) < MIN_KEY_LENGTH:
        return frozenset()
    return frozenset(each.encode() for each in (key, key.replace("/", "\\/"), quote(key, safe="")))
