"""What must not be recorded of a call: secrets, and more bytes than anybody will read."""

from __future__ import annotations

import re
from typing import Any, cast

import orjson

LARGEST_BODY = 2_000_000
"""Bytes of a request or response that are recorded as they are; of a larger one, long texts are cut."""
LONGEST_TEXT = 4_000
"""Characters kept of each text in a body that is too large: enough to know a picture or a document by."""

_MARKS = (b"sk-", b"earer ", b"EARER ", b"AIza", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"hf_", b"xox")
_KEYS = re.compile(
    rb"(?<![A-Za-z0-9])"
    rb"(?:sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{8,}"  # OpenAI, Anthropic, OpenRouter, …
    rb"|(?i:bearer) [A-Za-z0-9._~+/=-]{8,}"
    rb"|AIza[A-Za-z0-9_-]{30,}"  # Google
    rb"|gh[pousr]_[A-Za-z0-9]{30,}"  # GitHub
    rb"|hf_[A-Za-z0-9]{30,}"  # Hugging Face
    rb"|xox[abprs]-[A-Za-z0-9-]{10,})"  # Slack
)
REDACTED = b"[redacted]"


def without_keys(body: bytes) -> bytes:
    """The text with everything that looks like an API key replaced."""
    return _KEYS.sub(REDACTED, body) if may_have_keys(body) else body


def may_have_keys(body: bytes) -> bool:
    """Whether a closer look is worth it. Searching plain bytes is a hundred times faster than the pattern."""
    for mark in _MARKS:  # noqa: SIM110 - a generator would take longer than the search
        if mark in body:
            return True
    return False


def text_without_keys(text: str) -> str:
    """The same for a string."""
    body = text.encode("utf-8", "replace")
    return _KEYS.sub(REDACTED, body).decode() if may_have_keys(body) else text


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
