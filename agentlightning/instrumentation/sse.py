"""Parsing of server-sent events.

`EventBuffer` finds the complete events in a stream while it is being received. `events` parses the events of a complete
or truncated stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import orjson

from ..errors import TooLarge
from ..payload import MAX_VALUES

MAX_STREAM_VALUES: Final = 4 * MAX_VALUES
"""Maximum number of lines, opening brackets, opening braces and commas in a stream that is parsed."""

_FINAL_EVENTS = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed", "error"})
_ENDS_OF_EVENTS = (b"\n\n", b"\n\r\n", b"\r\r")
_END_OF_EVENT = re.compile(b"|".join(_ENDS_OF_EVENTS))


class EventBuffer:
    """Collects the chunks of a stream and returns complete events. It does not search earlier chunks again."""

    def __init__(self) -> None:
        self._incomplete = bytearray()
        self.events = 0
        """Number of complete events that the stream has contained so far. Every empty line ends an event."""

    @property
    def size(self) -> int:
        """Size of the incomplete event in bytes."""
        return len(self._incomplete)

    def add(self, chunk: bytes) -> bytes:
        """Return the events that are complete after this chunk, including the empty lines that end them."""
        start = max(0, self.size - 2)  # the empty line may be split between two chunks
        self._incomplete += chunk
        found = ((self._incomplete.rfind(mark, start), len(mark)) for mark in _ENDS_OF_EVENTS)
        end = max((position + length for position, length in found if position >= 0), default=0)
        complete = bytes(self._incomplete[:end])
        del self._incomplete[:end]
        self.events += sum(map(complete.count, _ENDS_OF_EVENTS))
        return complete

    def take(self) -> bytes:
        """Remove and return the incomplete event."""
        incomplete, self._incomplete = bytes(self._incomplete), bytearray()
        return incomplete


def split_events(stream: bytes) -> list[bytes]:
    """Return the events in a stream, each with the empty line that ends it. The last event may be incomplete."""
    ends = [match.end() for match in _END_OF_EVENT.finditer(stream)]
    return [stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True) if start < end]


def events(stream: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects sent as data of the events, in order.

    Data that is not a JSON object and an incomplete last event are omitted. Raises `TooLarge` if the stream contains
    more than `MAX_STREAM_VALUES` lines and values.
    """
    if len(stream) > MAX_STREAM_VALUES:
        _check_size(stream)
    if b"\r" in stream:  # lines may also end in CR LF or CR
        stream = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    # Nearly every stream has one line of data per event. Parsing these lines as one JSON array is faster than parsing
    # 100 objects one by one.
    lines = [line[5:] for line in stream.split(b"\n") if line.startswith((b"data: {", b"data:{"))]
    try:
        found: list[Any] = orjson.loads(b"[" + b",".join(lines) + b"]")
    except orjson.JSONDecodeError:
        found = list(_parse_each(stream))
    return [event for event in found if isinstance(event, dict)]


def has_ended(stream: bytes, last_event: dict[str, Any] | None) -> bool:
    """Return True if the stream contains the server's final event.

    `last_event` is the last event parsed from the stream, or None if there is none.
    """
    return b"[DONE]" in stream[-200:] or (last_event or {}).get("type") in _FINAL_EVENTS


def _check_size(stream: bytes) -> None:
    """Raise `TooLarge` if the decoded stream could take much more memory than its text.

    Commas and brackets in strings count too, because a malformed line can make it seem that all later ones are strings.
    """
    if len(stream) - len(stream.translate(None, b"[{,\n\r")) > MAX_STREAM_VALUES:
        raise TooLarge(f"the stream has too many JSON values: the limit is {MAX_STREAM_VALUES} lines and values")


def _parse_each(stream: bytes) -> Iterator[Any]:
    data: list[bytes] = []
    for line in [*stream.splitlines(), b""]:
        if line.startswith(b"data:"):
            data.append(line[5:].lstrip())
        elif not line:
            yield from _parse_event(data)
            data = []


def _parse_event(data: list[bytes]) -> Iterator[Any]:
    try:
        yield orjson.loads(b"\n".join(data))
    except (
        orjson.JSONDecodeError
    ):  # each line may be a separate object, which the faster parsing in `events` also accepts
        for line in data if len(data) > 1 else []:
            with suppress(orjson.JSONDecodeError):
                yield orjson.loads(line)
