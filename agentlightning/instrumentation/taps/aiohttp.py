"""Calls through aiohttp, seen at `ClientSession._request`, which all its methods come to."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import aiohttp
import orjson

from ..context import BENEATH, listening
from ..llm_call import OpenCall, begin, host_attributes, may_be_call
from ..patches import Patch

logger = logging.getLogger("agentlightning.instrumentation")


def patches(library: Any) -> Iterator[Patch]:
    """Of the library."""
    yield Patch(library.ClientSession, "_request", _tapped)


def _tapped(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(original)
    async def request(session: Any, method: str, str_or_url: Any, **kwargs: Any) -> Any:
        call = _begin(session, method, str_or_url, kwargs)
        if call is None:
            return await original(session, method, str_or_url, **kwargs)
        beneath = BENEATH.set(True)
        try:
            response = await original(session, method, str_or_url, **kwargs)
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            BENEATH.reset(beneath)
        _watch(response, call)
        return response

    return request


def _begin(session: Any, method: str, given: Any, kwargs: Mapping[str, Any]) -> OpenCall | None:
    try:
        if method.upper() != "POST" or BENEATH.get() or not may_be_call(str(given).partition("?")[0]):
            return None
        listener, body = listening(), _body(kwargs)
        if listener is None or body is None:
            return None
        url = session._build_url(given)
        return begin(
            listener, url.path, body, host_attributes(url.host, url.port, url.path, kwargs.get("headers") or {})
        )
    except Exception:
        logger.debug("A request could not be looked at", exc_info=True)
        return None


def _body(kwargs: Mapping[str, Any]) -> bytes | None:
    if kwargs.get("json") is not None:
        return orjson.dumps(kwargs["json"])
    data = kwargs.get("data")
    return data.encode() if isinstance(data, str) else data if isinstance(data, bytes) else None


def _watch(response: Any, call: OpenCall) -> None:
    try:
        as_events = "text/event-stream" in response.headers.get("content-type", "")
        call.answering(response.status, bytes, as_events=as_events)
        _listen(response.content, call)
    except Exception as error:
        logger.debug("A response could not be looked at", exc_info=True)
        call.give_up(error)


def _listen(body: aiohttp.StreamReader, call: OpenCall) -> None:
    for chunk in getattr(body, "_buffer", ()):  # what has come along with the headers
        call.saw(chunk)
    if body.is_eof():
        call.finished(complete=True)
    else:
        # The parser feeds this very object, which has room for nothing: only its class can be another.
        _calls[id(body)] = call
        body.__class__ = _TappedReader


class _TappedReader(aiohttp.StreamReader):
    """The answer's own reader, with somebody listening to what it is fed."""

    __slots__ = ()

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        if call := _calls.get(id(self)):
            call.saw(data)
        return super().feed_data(data, size)

    def feed_eof(self) -> None:
        super().feed_eof()
        if call := _calls.pop(id(self), None):
            call.finished(complete=True)

    def set_exception(self, exc: BaseException, *args: Any, **kwargs: Any) -> None:
        super().set_exception(exc, *args, **kwargs)
        if call := _calls.pop(id(self), None):
            # Whoever closes a response before its end has it end with just this error.
            if type(exc) is aiohttp.ClientConnectionError:
                call.finished(complete=False)
            else:
                call.failed(exc)

    def __del__(self) -> None:
        if call := _calls.pop(id(self), None):
            call.finished(complete=False)


_calls: dict[int, OpenCall] = {}
"""The calls whose answers are still coming, by the ids of their readers."""
