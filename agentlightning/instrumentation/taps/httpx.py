"""Tap of `Client.send` and `AsyncClient.send` in httpx and httpx2, which most model SDKs are built on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import wraps
from typing import Any

from ..llm_call import OpenCall, abandons_on_error, start_call
from ..patches import Patch
from .base import RecordedStream, is_candidate, returns_none_on_error


def patches(library: Any) -> Iterator[Patch]:
    """Yield the patches of httpx or httpx2."""

    class SyncStream(RecordedStream, library.SyncByteStream):
        """Byte stream that records what the user reads from it."""

    class AsyncStream(_AsyncRecordedStream, library.AsyncByteStream):
        """Asynchronous byte stream that records what the user reads from it."""

    yield Patch(library.Client, "send", lambda original: _tap(original, SyncStream))
    yield Patch(library.AsyncClient, "send", lambda original: _tap_async(original, AsyncStream))


def _tap(original: Callable[..., Any], stream_type: Callable[[Any, OpenCall], Any]) -> Callable[..., Any]:
    @wraps(original)
    def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        call = _start(request)
        if call is None:
            return original(client, request, *args, **kwargs)
        with call:
            response = original(client, request, *args, **kwargs)
        _record(call, response, stream_type)
        return response

    return send


def _tap_async(
    original: Callable[..., Awaitable[Any]], stream_type: Callable[[Any, OpenCall], Any]
) -> Callable[..., Awaitable[Any]]:
    @wraps(original)
    async def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        call = _start(request)
        if call is None:
            return await original(client, request, *args, **kwargs)
        with call:
            response = await original(client, request, *args, **kwargs)
        _record(call, response, stream_type)
        return response

    return send


@returns_none_on_error
def _start(request: Any) -> OpenCall | None:
    url = request.url
    path: str = url.path
    if not is_candidate(request.method, path):
        return None
    return start_call(url.host, url.port, path, request.headers, request.content)


@abandons_on_error
def _record(call: OpenCall, response: Any, stream_type: Callable[[Any, OpenCall], Any]) -> None:
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
        # A response that is only created to use the library's own decoders.
        return type(response)(200, headers={"content-encoding": encoding}, content=raw).content if raw else raw

    return decompress


class _AsyncRecordedStream(RecordedStream):
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
