"""Server-sent events, read from the bytes of a whole stream or its first part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import orjson

_LAST_EVENTS = frozenset({"message_stop", "response.completed", "response.incomplete", "response.failed", "error"})


def events(stream: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects that are an event's data, in order; a last one that was cut off is left out."""
    for data in _data(stream):
        try:
            event: Any = orjson.loads(data)
        except orjson.JSONDecodeError:
            continue
        if isinstance(event, dict):
            yield cast("dict[str, Any]", event)


def has_ended(stream: bytes, last_event: dict[str, Any] | None) -> bool:
    """Whether the server has said that nothing more will come."""
    return b"[DONE]" in stream[-200:] or (last_event or {}).get("type") in _LAST_EVENTS


def _data(stream: bytes) -> Iterator[bytes]:
    held: list[bytes] = []
    for line in stream.splitlines():
        if line.startswith(b"data:"):
            held.append(line[5:].lstrip())
        elif not line and held:
            yield b"\n".join(held)
            held = []
    if held:
        yield b"\n".join(held)
