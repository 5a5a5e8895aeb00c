"""Calls through `requests`, seen at `Session.send`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from ..context import BENEATH, listening
from ..llm_call import OpenCall, begin, host_attributes, may_be_call
from ..patches import Patch

logger = logging.getLogger("agentlightning.instrumentation")


def patches(library: Any) -> Iterator[Patch]:
    """Of the library."""
    yield Patch(library.Session, "send", _tapped)


def _tapped(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def send(session: Any, request: Any, **kwargs: Any) -> Any:
        call = _begin(request)
        if call is None:
            return original(session, request, **kwargs)
        beneath = BENEATH.set(True)
        try:
            response = original(session, request, **kwargs)
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            BENEATH.reset(beneath)
        _watch(response, call)
        return response

    return send


def _begin(request: Any) -> OpenCall | None:
    try:
        url = urlsplit(str(request.url))
        if request.method != "POST" or BENEATH.get() or not may_be_call(url.path):
            return None
        body = request.body.encode() if isinstance(request.body, str) else request.body
        listener = listening()
        if listener is None or not isinstance(body, bytes):
            return None
        return begin(listener, url.path, body, host_attributes(url.hostname, url.port, url.path, request.headers))
    except Exception:
        logger.debug("A request could not be looked at", exc_info=True)
        return None


def _watch(response: Any, call: OpenCall) -> None:
    try:
        if response._content_consumed:
            call.answered(response.status_code, response.content)
            return
        as_events = "text/event-stream" in response.headers.get("content-type", "")
        call.answering(response.status_code, bytes, as_events=as_events)
        response.raw = _Tapped(response.raw, call)
    except Exception as error:
        logger.debug("A response could not be looked at", exc_info=True)
        call.give_up(error)


class _Tapped:
    """The body's own reader, with somebody listening to what `requests` takes from it."""

    def __init__(self, raw: Any, call: OpenCall) -> None:
        self._raw = raw
        self._call = call

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        call = self._call
        try:
            for chunk in self._raw.stream(*args, **kwargs):
                call.saw(chunk)
                yield chunk
        except Exception as error:
            call.failed(error)
            raise
        call.finished(complete=True)

    def read(self, *args: Any, **kwargs: Any) -> bytes:
        chunk: bytes = self._raw.read(*args, **kwargs)
        self._call.saw(chunk)
        if not chunk:
            self._call.finished(complete=True)
        return chunk

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            self._call.finished(complete=False)

    def __iter__(self) -> Iterator[bytes]:
        return self.stream()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_raw"], name)

    def __del__(self) -> None:
        self._call.finished(complete=False)
