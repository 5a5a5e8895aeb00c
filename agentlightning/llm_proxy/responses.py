"""Reading of responses from model servers, which are not trusted.

The size of a response after decompression is limited. API keys and most headers are removed.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, ParamSpec, TypeVar

import aiohttp

from ..http.limits import Limits
from ..redaction import contains_keys, redact_bytes
from .errors import ProxyError
from .key_removal import UpstreamKey, redact_error_body, redact_error_events
from .upstreams import Upstream

P = ParamSpec("P")
T = TypeVar("T")

OFFLOADED_SIZE: Final = 256 * 1024
"""Size in bytes above which JSON is processed in a thread. Smaller JSON takes a few milliseconds at most."""
MAX_RETURNED_HEADERS: Final = 50

_DECOMPRESSED_AT_ONCE: Final = 64 * 1024
_COMPRESSED_AT_ONCE: Final = 4 * 1024
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_RETURNED_HEADERS = ("content-type", "request-id", "x-request-id")
_RETURNED_HEADER_PREFIXES = ("openai-", "anthropic-", "x-ratelimit-")
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


async def offload_if_large(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the function and return its result. Call it in a thread if `size` exceeds `OFFLOADED_SIZE`."""
    if size > OFFLOADED_SIZE:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)


class UpstreamResponse:
    """A response from a model server."""

    def __init__(self, response: aiohttp.ClientResponse, upstream: Upstream, limits: Limits) -> None:
        """Raises `ProxyError` if the response is a redirect or has an invalid status."""
        self._response = response
        self._upstream = upstream
        self._limit = limits.upstream_response
        self._key = _upstream_key(upstream.api_key)
        self.status = response.status
        if 300 <= self.status < 400:
            raise self.error("redirects the call to another address; enter the final URL in the model list")
        if not 200 <= self.status < 600:
            raise self.error(f"sent the invalid HTTP status {self.status}")

    def error(self, problem: str) -> ProxyError:
        """Return a `ProxyError` that names the server and describes the problem."""
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
        """Return the headers that are sent to the agent.

        Headers whose values contain API keys, control characters or non-ASCII characters are left out.
        """
        headers: list[tuple[bytes, bytes]] = []
        for name, value in self._response.headers.items():
            name = name.lower()
            is_returned = name in _RETURNED_HEADERS or name.startswith(_RETURNED_HEADER_PREFIXES)
            if is_returned and value.isascii() and value.isprintable() and not self._contains_keys(value.encode()):
                headers.append((name.encode(), value.encode()))
        if (delay := self.retry_after) is not None:
            headers.insert(0, (b"retry-after", str(math.ceil(delay)).encode()))
        return headers[:MAX_RETURNED_HEADERS]

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the decompressed content in chunks.

        Raises `ProxyError` if the content is too large or cannot be decompressed.
        """
        size = 0
        async for chunk in self._decompressed():
            size += len(chunk)
            if size > self._limit:
                remedy = "request a shorter response, or raise --max-response (Limits.upstream_response)"
                raise self.error(f"sent a response larger than {self._limit} bytes; {remedy}")
            yield chunk

    async def read(self) -> bytes:
        """Return the whole decompressed content. Raises `ProxyError` in the same cases as `chunks`."""
        return b"".join([chunk async for chunk in self.chunks()])

    def without_keys(self, content: bytes) -> bytes:
        """Return a whole body, or whole events of a stream, without the upstream's API key.

        If the status, the body or an event reports an error, also redact everything else that looks like an API key.
        """
        content = self._key.remove_from(content)
        if self.status >= 400:
            return redact_bytes(content)
        return redact_error_events(content) if self.is_stream else redact_error_body(content)

    def _contains_keys(self, value: bytes) -> bool:
        return contains_keys(value) or self._key.is_in(value)

    async def _decompressed(self) -> AsyncGenerator[bytes]:
        encoding = self._response.headers.get("content-encoding", "").strip().lower()
        received = self._response.content.iter_any()
        if encoding in ("", "identity"):
            async for chunk in received:
                yield chunk
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise self.error(f"sent a response with the unsupported content encoding {encoding[:40]!r}")
        decompressor = _Decompressor()
        try:
            async for chunk in received:
                for piece in decompressor.decompress(chunk):
                    yield piece
                    await asyncio.sleep(0)  # let other calls continue, because a small chunk may contain a lot of data
        except zlib.error as error:
            raise self.error(f"sent invalid {encoding} data: {error}") from None
        if not decompressor.is_complete:
            raise self.error(f"sent incomplete {encoding} data")


class _Decompressor:
    """Decompresses gzip or zlib data in small steps. Takes linear time, even if gzip data consists of many members."""

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


@lru_cache(1_000)
def _upstream_key(key: str | None) -> UpstreamKey:
    return UpstreamKey(key)
