"""The wire tap: every LLM SDK's calls, seen where they leave the process.

Two hooks, on `Client.send` and `AsyncClient.send` of httpx and httpx2, which the SDKs of the field are built on. The
request goes out as it is; a whole answer is read from the response after the SDK has it, a streamed one is copied as
its bytes pass, so the SDK's own objects are untouched.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .dialects import may_be_call
from .listening import listening
from .llm_call import OpenCall, begin, open_calls
from .patches import Patch, Patches

logger = logging.getLogger("agentlightning.instrumentation")

_LIBRARIES = ("httpx", "httpx2")


class WireTap(Patches):
    """The hooks, and the calls whose answers are still on their way."""

    def close_open_calls(self, mine: Callable[[int], bool]) -> None:
        """End the record of every open call whose span id is `mine`, with what has been seen of its answer."""
        for call in list(open_calls):
            if mine(call.span_id):
                call.finished(complete=False)


def _patches() -> Iterator[Patch]:
    for name in _LIBRARIES:
        if find_spec(name):
            library = import_module(name)
            yield Patch(library.Client, "send", _tapped(_sync_stream(library.SyncByteStream)))
            yield Patch(library.AsyncClient, "send", _tapped_async(_async_stream(library.AsyncByteStream)))


def _tapped(stream: Callable[[Any, OpenCall], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            call = _begin(request)
            if call is None:
                return original(client, request, *args, **kwargs)
            try:
                response = original(client, request, *args, **kwargs)
            except BaseException as error:
                call.failed(error)
                raise
            _watch(response, call, stream)
            return response

        return send

    return wrap


def _tapped_async(
    stream: Callable[[Any, OpenCall], Any],
) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]:
    def wrap(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(original)
        async def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            call = _begin(request)
            if call is None:
                return await original(client, request, *args, **kwargs)
            try:
                response = await original(client, request, *args, **kwargs)
            except BaseException as error:
                call.failed(error)
                raise
            _watch(response, call, stream)
            return response

        return send

    return wrap


def _begin(request: Any) -> OpenCall | None:
    try:
        url = request.url
        if request.method != "POST" or not may_be_call(url.path):
            return None
        listener = listening()
        return begin(listener, url.path, request.content, _host(request)) if listener else None
    except Exception:
        logger.debug("A request could not be looked at", exc_info=True)
        return None


def _host(request: Any) -> dict[str, Any]:
    url = request.url
    found: dict[str, Any] = {"server.address": url.host, "url.path": url.path}
    if url.port:
        found["server.port"] = url.port
    resent = request.headers.get("x-stainless-retry-count", "0")
    if resent.isdecimal() and resent != "0":
        found["http.request.resend_count"] = int(resent)
    return found


def _watch(response: Any, call: OpenCall, stream: Callable[[Any, OpenCall], Any]) -> None:
    try:
        if response.is_closed:
            call.answered(response.status_code, response.content)
            return
        as_events = "text/event-stream" in response.headers.get("content-type", "")
        call.answering(response.status_code, _decoder(response), as_events=as_events)
        response.stream = stream(response.stream, call)
    except Exception as error:
        logger.debug("A response could not be looked at", exc_info=True)
        call.give_up(error)


def _decoder(response: Any) -> Callable[[bytes], bytes]:
    encoding = response.headers.get("content-encoding")
    if not encoding:
        return bytes

    def decode(raw: bytes) -> bytes:
        # The library's own decoders, through a response that is only there to be read.
        return type(response)(200, headers={"content-encoding": encoding}, content=raw).content if raw else raw

    return decode


def _sync_stream(base: type[Any]) -> Callable[[Any, OpenCall], Any]:
    class TappedStream(base):
        """The response's own byte stream, with somebody listening."""

        def __init__(self, stream: Any, call: OpenCall) -> None:
            self._tapped = stream
            self._call = call

        def __iter__(self) -> Iterator[bytes]:
            call = self._call
            try:
                for chunk in self._tapped:
                    call.saw(chunk)
                    yield chunk
            except Exception as error:
                call.failed(error)
                raise
            call.finished(complete=True)

        def close(self) -> None:
            try:
                self._tapped.close()
            finally:
                self._call.finished(complete=False)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.__dict__["_tapped"], name)

        def __del__(self) -> None:
            self._call.finished(complete=False)

    return TappedStream


def _async_stream(base: type[Any]) -> Callable[[Any, OpenCall], Any]:
    class TappedAsyncStream(base):
        """The response's own byte stream, with somebody listening."""

        def __init__(self, stream: Any, call: OpenCall) -> None:
            self._tapped = stream
            self._call = call

        async def __aiter__(self) -> AsyncIterator[bytes]:
            call = self._call
            chunks = self._tapped.__aiter__()
            try:
                async for chunk in chunks:
                    call.saw(chunk)
                    yield chunk
            except Exception as error:
                call.failed(error)
                raise
            finally:
                if close := getattr(chunks, "aclose", None):
                    await close()
            call.finished(complete=True)

        async def aclose(self) -> None:
            try:
                await self._tapped.aclose()
            finally:
                self._call.finished(complete=False)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.__dict__["_tapped"], name)

        def __del__(self) -> None:
            self._call.finished(complete=False)

    return TappedAsyncStream


WIRE_TAP = WireTap(_patches)
