"""Removal of API keys from the responses of model servers.

A server's own key is removed from everything that it sends. Other keys are removed from errors only, because a model
may write a text that looks like a key.
"""

from __future__ import annotations

import re
from html.entities import html5
from typing import Any, Final

from pydantic_core import SchemaValidator, core_schema

from ..errors import TooLarge
from ..instrumentation import sse
from ..instrumentation.call_record import parse_object
from ..instrumentation.dialects.base import Json, as_object
from ..redaction import ascii_only, contains_keys, redact_bytes

MIN_KEY_LENGTH: Final = 8
"""Minimum length at which an upstream's API key is removed from its responses.

Shorter keys are often placeholders, such as `none`, that also occur in ordinary text.
"""
_ESCAPES = (b"\\u", b"\\x", b"\\/", b"%", b"&")
"""Beginnings of the escape sequences that `UpstreamKey` recognizes."""
_ERROR_EVENT = re.compile(rb"^event:[ ]?error\s*$", re.MULTILINE)


class UpstreamKey:
    r"""Finds a key in responses, even if its characters are escaped for JSON, URLs, HTML or programs.

    The escape sequences may be escaped again (`\\u002b`, `%252B`, `&amp;#x2B;`). A short key is not found.
    """

    def __init__(self, key: str | None) -> None:
        self._key = key.encode() if key is not None and len(key) >= MIN_KEY_LENGTH else None
        pattern = "".join(map(_maybe_escaped, key or ""))
        self._pattern = re.compile(pattern.encode())
        # Rust's regex engine rejects text without the key many times faster than Python's.
        self._may_match = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))

    def is_in(self, content: bytes) -> bool:
        """Return True if the content contains the key."""
        if self._key is None:
            return False
        if self._key in content:
            return True
        if not any(escape in content for escape in _ESCAPES):
            return False
        return self._may_match.isinstance_python(ascii_only(content))

    def remove_from(self, content: bytes) -> bytes:
        """Return the content with `[redacted]` instead of the key."""
        return self._pattern.sub(b"[redacted]", content) if self.is_in(content) else content


def redact_error_body(content: bytes) -> bytes:
    """Redact everything that looks like an API key if the body of a response with status 200 reports an error."""
    is_error = contains_keys(content) and _is_error(parse_object(content))
    return redact_bytes(content) if is_error else content


def redact_error_events(events: bytes) -> bytes:
    """Redact everything that looks like an API key in those events of a stream that report errors.

    An event that contains no JSON object is taken to be an error.
    """
    if not contains_keys(events):
        return events
    return b"".join([redact_bytes(event) if _is_error_event(event) else event for event in sse.split_events(events)])


def _is_error_event(event: bytes) -> bool:
    try:
        found = sse.events(event)
    except TooLarge:
        return True
    return not found or any(map(_is_error, found)) or _ERROR_EVENT.search(event) is not None


def _is_error(body: Json) -> bool:
    response: Any = body.get("response")
    return bool(body.get("error") or as_object(response).get("error")) or body.get("type") == "error"


def _maybe_escaped(character: str) -> str:
    """Return a pattern for a character that may be escaped. All repetitions are limited, so it takes linear time."""
    code, slash = ord(character), r"\\{0,8}" if character == "/" else ""
    names = "|".join(name for name, value in html5.items() if value == character and name.endswith(";"))
    ampersand = r"(?:&|\\{1,8}u0026)(?:amp;){0,3}"
    return (
        rf"(?:{slash}{re.escape(character)}"
        rf"|\\{{1,8}}(?:u(?i:{code:04x})|x(?i:{code:02x}))"
        rf"|%(?:25){{0,3}}(?i:{code:02x})"
        rf"|{ampersand}(?:#0{{0,8}}{code};|#[xX]0{{0,8}}(?i:{code:x});{'|' if names else ''}{names}))"
    )
