"""Tap of `Session.send` in `requests`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ..context import IN_REQUEST
from ..dialects import may_be_call
from ..llm_call import OpenCall, start_call
from ..patches import Patch
from .base import RecordedStream, tap


def patches(library: Any) -> Iterator[Patch]:
    """Yield the patch of the library."""
    yield Patch(library.Session, "send", tap(_start, _record))


def _start(session: Any, request: Any, **_: Any) -> OpenCall | None:
    url = urlsplit(str(request.url))
    if request.method != "POST" or IN_REQUEST.get() or not may_be_call(url.path):
        return None
    body = request.body.encode() if isinstance(request.body, str) else request.body
    return start_call(url.hostname, url.port, url.path, request.headers, body)


def _record(call: OpenCall, response: Any) -> None:
    if response._content_consumed:
        call.record_response(response.status_code, response.content)
    else:
        call.start_response(response.status_code, response.headers)
        response.raw = _RecordedBody(response.raw, call)


class _RecordedBody(RecordedStream):
    """Records what `requests` reads from a response body."""

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
