"""Server-sent events, parsed from the bytes of a complete or truncated stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson

_FINAL_EVENTS = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed", "error"})


def events(stream: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects of the events, in order. An incomplete last event is omitted."""
    # Nearly every stream has one line of data per event, and parsing one array is faster than parsing 100 objects.
    lines = [line[5:] for line in stream.split(b"\n") if line.startswith((b"data: {", b"data:{"))]
    try:
        found: list[Any] = orjson.loads(b"[" + b",".join(lines) + b"]")
    except orjson.JSONDecodeError:
        found = list(_parse_each(stream))
    return [event for event in found if isinstance(event, dict)]


def has_ended(stream: bytes, last_event: dict[str, Any] | None) -> bool:
    """Return True if the stream contains the server's final event. `last_event` is the last event in the stream."""
    return b"[DONE]" in stream[-200:] or (last_event or {}).get("type") in _FINAL_EVENTS


def _parse_each(stream: bytes) -> Iterator[Any]:
    data: list[bytes] = []
    for line in [*stream.splitlines(), b""]:
        if line.startswith(b"data:"):
            data.append(line[5:].lstrip())
        elif not line:
            with suppress(orjson.JSONDecodeError):
                yield orjson.loads(b"\n".join(data))
            data = []
