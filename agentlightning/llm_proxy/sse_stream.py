"""A stream of server-sent events, cut into whole events as its bytes arrive."""

from __future__ import annotations

import re

import orjson

from ..instrumentation import sse

_END = re.compile(rb"\r?\n\r?\n")
_SIGNS = (b"[DONE]", b"message_stop", b"response.", b"error")


class Events:
    """Gives each event as soon as it is complete."""

    def __init__(self) -> None:
        self._held = b""

    def add(self, chunk: bytes) -> list[bytes]:
        """The events that are complete now, each with the empty line that ends it."""
        held = self._held + chunk if self._held else chunk
        events: list[bytes] = []
        begin = 0
        for end in _END.finditer(held):
            events.append(held[begin : end.end()])
            begin = end.end()
        self._held = held[begin:]
        return events

    @property
    def rest(self) -> bytes:
        """What has come of an event that is not complete."""
        return self._held


def is_last(event: bytes) -> bool:
    """Whether the server says with this event that nothing more will come."""
    if not any(sign in event for sign in _SIGNS):
        return False
    data = event.partition(b"data:")[2].strip()
    if data == b"[DONE]":
        return True
    try:
        return sse.has_ended(b"", orjson.loads(data))
    except (orjson.JSONDecodeError, AttributeError):
        return False
