"""Tap of `ClientSession._request` in aiohttp, which all of its methods call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
import orjson

from ..context import IN_REQUEST
from ..dialects import may_be_call
from ..llm_call import OpenCall, start_call
from ..patches import Patch
from .base import tap_async


def patches(library: Any) -> Iterator[Patch]:
    """Yield the patch of the library."""
    yield Patch(library.ClientSession, "_request", tap_async(_start, _record))


def _start(session: Any, method: str, str_or_url: Any, **kwargs: Any) -> OpenCall | None:
    if method.upper() != "POST" or IN_REQUEST.get() or not may_be_call(str(str_or_url).partition("?")[0]):
        return None
    url = session._build_url(str_or_url)
    return start_call(url.host, url.port, url.path, kwargs.get("headers") or {}, _body(kwargs))


def _body(kwargs: Mapping[str, Any]) -> bytes | None:
    if kwargs.get("json") is not None:
        return orjson.dumps(kwargs["json"])
    data = kwargs.get("data")
    return data.encode() if isinstance(data, str) else data


def _record(call: OpenCall, response: Any) -> None:
    call.start_response(response.status, response.headers)
    body: aiohttp.StreamReader = response.content
    for chunk in getattr(body, "_buffer", ()):  # received together with the headers
        call.add_chunk(chunk)
    if body.is_eof():
        call.finish(complete=True)
    else:
        # The parser feeds this very object, which has no place for another attribute: only its class can change.
        _calls[id(body)] = call
        body.__class__ = _RecordedReader


class _RecordedReader(aiohttp.StreamReader):
    """The reader of a response that records what the parser feeds it."""

    __slots__ = ()

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        if call := _calls.get(id(self)):
            call.add_chunk(data)
        return super().feed_data(data, size)

    def feed_eof(self) -> None:
        super().feed_eof()
        if call := _calls.pop(id(self), None):
            call.finish(complete=True)

    def set_exception(self, exc: BaseException, *args: Any, **kwargs: Any) -> None:
        super().set_exception(exc, *args, **kwargs)
        if call := _calls.pop(id(self), None):
            # aiohttp sets exactly this error on a response that the user closes before its end.
            if type(exc) is aiohttp.ClientConnectionError:
                call.finish(complete=False)
            else:
                call.fail(exc)

    def __del__(self) -> None:
        if call := _calls.pop(id(self), None):
            call.finish(complete=False)


_calls: dict[int, OpenCall] = {}
"""Calls whose responses are not complete, by the ids of their readers."""
