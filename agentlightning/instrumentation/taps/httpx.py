"""Tap of `Client.send` and `AsyncClient.send` in httpx and httpx2, which most model SDKs are built on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

from ..dialects import may_be_call
from ..llm_call import OpenCall, start_call
from ..patches import Patch
from .base import RecordedStream, tap, tap_async


def patches(library: Any) -> Iterator[Patch]:
    """Yield the patches of httpx or httpx2."""

    class SyncStream(RecordedStream, library.SyncByteStream):
        """Byte stream that records what the user reads from it."""

    class AsyncStream(_AsyncRecordedStream, library.AsyncByteStream):
        """Asynchronous byte stream that records what the user reads from it."""

    yield Patch(library.Client, "send", tap(_start, partial(_record, SyncStream)))
    yield Patch(library.AsyncClient, "send", tap_async(_start, partial(_record, AsyncStream)))


def _start(client: Any, request: Any, **_: Any) -> OpenCall | None:
    url = request.url
    path: str = url.path
    if request.method != "POST" or not may_be_call(path):
        return None
    return start_call(url.host, url.port, path, request.headers, request.content)


def _record(stream_type: Callable[[Any, OpenCall], Any], call: OpenCall, response: Any) -> None:
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
