"""Wire tap: records the calls that LLM SDKs make, by patching the HTTP libraries that send the requests.

Requests are sent unchanged, and the SDKs' own objects are not modified. If the HTTP library has already received the
whole response, the wire tap copies it at once; otherwise, it copies the response while it is being received.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import orjson

from .context import IN_REQUEST
from .dialects import may_be_call
from .llm_call import MAX_STREAM_BYTES, OpenCall, abandons_on_error, start_call
from .patches import Instrumentation, Patch

logger = logging.getLogger("agentlightning.instrumentation")

SWITCH_VARIABLE = "AGL_WIRE_TAP"
"""Environment variable that disables the wire tap if its value is `off`."""
_DECODED_AT_ONCE = 1024
"""Number of compressed bytes that are passed to a decoder at a time."""


def is_enabled() -> bool:
    """Return True unless the wire tap is disabled in this process."""
    return os.environ.get(SWITCH_VARIABLE) != "off"


def _patches() -> Iterator[Patch]:
    for library, patches in _PATCHES.items():
        if is_enabled() and find_spec(library):
            yield from patches(import_module(library))


# Code shared by the patches for all HTTP libraries

Start = Callable[..., OpenCall | None]
"""Function that starts recording a request. It takes the arguments of the patched function and returns None if the
request is not recorded."""
Record = Callable[[OpenCall, Any], None]
"""Function that records the response to a call."""


def _tap(owner: Any, name: str, start: Start, record: Record, *, is_async: bool = False) -> Patch:
    """Return a patch for a function that sends a request and returns the response. The patch records both."""
    record = abandons_on_error(record)

    def start_safely(*args: Any, **kwargs: Any) -> OpenCall | None:
        try:
            return start(*args, **kwargs)
        except Exception:
            logger.debug("A request could not be inspected", exc_info=True)
            return None

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def send(*args: Any, **kwargs: Any) -> Any:
            call = start_safely(*args, **kwargs)
            if call is None:
                return original(*args, **kwargs)
            with call:
                response = original(*args, **kwargs)
            record(call, response)
            return response

        @wraps(original)
        async def send_async(*args: Any, **kwargs: Any) -> Any:
            call = start_safely(*args, **kwargs)
            if call is None:
                return await original(*args, **kwargs)
            with call:
                response = await original(*args, **kwargs)
            record(call, response)
            return response

        return send_async if is_async else send

    return Patch(owner, name, wrap)


class _RecordedStream:
    """Wrapper around an HTTP library's response stream. Records the bytes that are read from the stream."""

    def __init__(self, stream: Any, call: OpenCall) -> None:
        self._stream = stream
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        return self._call.record_chunks(self._stream)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._call.finish(complete=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_stream"], name)

    def __del__(self) -> None:
        self._call.finish(complete=False)


# httpx and httpx2, the libraries that most model SDKs use


def _httpx_patches(library: Any) -> Iterator[Patch]:
    class SyncStream(_RecordedStream, library.SyncByteStream):
        """Byte stream that records everything that is read from it."""

    class AsyncStream(_AsyncRecordedStream, library.AsyncByteStream):
        """Asynchronous byte stream that records everything that is read from it."""

    yield _tap(library.Client, "send", _start_httpx, partial(_record_httpx, SyncStream))
    yield _tap(library.AsyncClient, "send", _start_httpx, partial(_record_httpx, AsyncStream), is_async=True)


def _start_httpx(client: Any, request: Any, **_: Any) -> OpenCall | None:
    url = request.url
    path: str = url.path
    if request.method != "POST" or not may_be_call(path):
        return None
    return start_call(url.host, url.port, path, request.headers, request.content)


def _record_httpx(stream_type: Callable[[Any, OpenCall], Any], call: OpenCall, response: Any) -> None:
    if response.is_closed:
        call.record_response(response.status_code, response.content)
    else:
        call.start_response(response.status_code, response.headers, _decompressor(response))
        response.stream = stream_type(response.stream, call)


def _decompressor(response: Any) -> Callable[[bytes], bytes]:
    encoding = response.headers.get("content-encoding")
    if not encoding:
        return bytes

    def decompress(raw: bytes) -> bytes:
        # Create a second response, only to decompress the bytes with the library's own decoders. The small pieces limit
        # the amount of data that a decoder returns at once.
        pieces = (raw[start : start + _DECODED_AT_ONCE] for start in range(0, len(raw), _DECODED_AT_ONCE))
        decoded = bytearray()
        for piece in type(response)(200, headers={"content-encoding": encoding}, content=pieces).iter_bytes():
            decoded += piece
            if len(decoded) > MAX_STREAM_BYTES:
                break
        return bytes(decoded)

    return decompress


class _AsyncRecordedStream(_RecordedStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        call = self._call
        chunks = self._stream.__aiter__()
        try:
            async for chunk in chunks:
                call.add_chunk(chunk)
                yield chunk
        except Exception as error:
            call.fail(error)
            raise
        finally:
            if close := getattr(chunks, "aclose", None):
                await close()
        call.finish(complete=True)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._call.finish(complete=False)


# aiohttp: all of its request methods call `ClientSession._request`


def _aiohttp_patches(library: Any) -> Iterator[Patch]:
    class RecordedReader(library.StreamReader):
        """Response reader that records the bytes that aiohttp's parser passes to it."""

        __slots__ = ()

        def feed_data(self, data: bytes, size: int = 0) -> bool:
            if call := _aiohttp_calls.get(id(self)):
                call.add_chunk(data)
            return super().feed_data(data, size)  # pyright: ignore[reportUnknownVariableType]

        def feed_eof(self) -> None:
            super().feed_eof()
            if call := _aiohttp_calls.pop(id(self), None):
                call.finish(complete=True)

        def set_exception(self, exc: BaseException, *args: Any, **kwargs: Any) -> None:
            super().set_exception(exc, *args, **kwargs)
            if call := _aiohttp_calls.pop(id(self), None):
                # aiohttp sets exactly this class of exception, not a subclass, if a response is closed before its end.
                if type(exc) is library.ClientConnectionError:
                    call.finish(complete=False)
                else:
                    call.fail(exc)

        def __del__(self) -> None:
            if call := _aiohttp_calls.pop(id(self), None):
                call.finish(complete=False)

    record = partial(_record_aiohttp, RecordedReader)
    yield _tap(library.ClientSession, "_request", _start_aiohttp, record, is_async=True)


def _start_aiohttp(session: Any, method: str, str_or_url: Any, **kwargs: Any) -> OpenCall | None:
    if method.upper() != "POST" or IN_REQUEST.get() or not may_be_call(str(str_or_url).partition("?")[0]):
        return None
    url = session._build_url(str_or_url)
    data = kwargs.get("data")
    if kwargs.get("json") is not None:
        data = orjson.dumps(kwargs["json"])
    elif isinstance(data, str):
        data = data.encode()
    return start_call(url.host, url.port, url.path, kwargs.get("headers") or {}, data)


def _record_aiohttp(reader_type: type[Any], call: OpenCall, response: Any) -> None:
    call.start_response(response.status, response.headers)
    body = response.content
    for chunk in getattr(body, "_buffer", ()):  # received together with the headers
        call.add_chunk(chunk)
    if body.is_eof():
        call.finish(complete=True)
    else:
        # The parser already passes data to this reader, so the reader cannot be replaced. Its class has `__slots__`, so
        # its methods cannot be replaced either. Change its class instead.
        _aiohttp_calls[id(body)] = call
        body.__class__ = reader_type


_aiohttp_calls: dict[int, OpenCall] = {}
"""Calls whose responses are not complete yet. Each key is the `id()` of a response's reader."""


# requests


def _requests_patches(library: Any) -> Iterator[Patch]:
    yield _tap(library.Session, "send", _start_requests, _record_requests)


def _start_requests(session: Any, request: Any, **_: Any) -> OpenCall | None:
    url = urlsplit(str(request.url))
    if request.method != "POST" or IN_REQUEST.get() or not may_be_call(url.path):
        return None
    body = request.body.encode() if isinstance(request.body, str) else request.body
    return start_call(url.hostname, url.port, url.path, request.headers, body)


def _record_requests(call: OpenCall, response: Any) -> None:
    if response._content_consumed:
        call.record_response(response.status_code, response.content)
    else:
        call.start_response(response.status_code, response.headers)
        response.raw = _RecordedBody(response.raw, call)


class _RecordedBody(_RecordedStream):
    """Response body that records the bytes that `requests` reads from it."""

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        return self._call.record_chunks(self._stream.stream(*args, **kwargs))

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        chunk: bytes = self._stream.read(*args, **kwargs)
        self._call.add_chunk(chunk)
        if not chunk:
            self._call.finish(complete=True)
        return chunk

    def __iter__(self) -> Iterator[bytes]:
        return self.stream()


_PATCHES: dict[str, Callable[[Any], Iterator[Patch]]] = {
    "httpx": _httpx_patches,
    "httpx2": _httpx_patches,
    "aiohttp": _aiohttp_patches,
    "requests": _requests_patches,
}
WIRE_TAP = Instrumentation(_patches)
"""The patches for all supported HTTP libraries that are installed."""
