"""Calls through `Client.send` and `AsyncClient.send` of httpx and httpx2, which most SDKs of the field are built on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import wraps
from typing import Any

from ..context import BENEATH, listening
from ..llm_call import OpenCall, begin, host_attributes, may_be_call
from ..patches import Patch

logger = logging.getLogger("agentlightning.instrumentation")


def patches(library: Any) -> Iterator[Patch]:
    """Of either library."""
    yield Patch(library.Client, "send", _tapped(_sync_stream(library.SyncByteStream)))
    yield Patch(library.AsyncClient, "send", _tapped_async(_async_stream(library.AsyncByteStream)))


def _tapped(stream: Callable[[Any, OpenCall], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def send(client: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            call = _begin(request)
            if call is None:
                return original(client, request, *args, **kwargs)
            beneath = BENEATH.set(True)
            try:
                response = original(client, request, *args, **kwargs)
            except BaseException as error:
                call.failed(error)
                raise
            finally:
                BENEATH.reset(beneath)
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
            beneath = BENEATH.set(True)
            try:
                response = await original(client, request, *args, **kwargs)
            except BaseException as error:
                call.failed(error)
                raise
            finally:
                BENEATH.reset(beneath)
            _watch(response, call, stream)
            return response

        return send

    return wrap


def _begin(request: Any) -> OpenCall | None:
    try:
        url = request.url
        path: str = url.path
        if request.method != "POST" or not may_be_call(path):
            return None
        listener = listening()
        if listener is None:
            return None
        return begin(listener, path, request.content, host_attributes(url.host, url.port, path, request.headers))
    except Exception:
        logger.debug("A request could not be looked at", exc_info=True)
        return None


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
