"""How much of a request or response is recorded: all of it, unless it is larger than anybody will read."""

from __future__ import annotations

from typing import Any, cast

import orjson

LARGEST_BODY = 2_000_000
"""Bytes that are recorded as they are; of a larger body, long texts are cut."""
LONGEST_TEXT = 4_000
"""Characters kept of each text in a body that is too large: enough to know a picture or a document by."""


def cut_to_size(body: bytes) -> bytes:
    """The JSON text, its long strings cut where it is too large; empty where even that does not help."""
    if len(body) <= LARGEST_BODY:
        return body
    try:
        cut = orjson.dumps(_cut(orjson.loads(body)))
    except (orjson.JSONDecodeError, RecursionError):
        return b""
    return cut if len(cut) <= LARGEST_BODY else b""


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}… ({len(value) - LONGEST_TEXT} characters left out)"
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_cut(item) for item in cast("list[Any]", value)]
    return value
