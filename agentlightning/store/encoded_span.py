"""Encoded spans: the fields that are stored in columns are decoded, and the other fields are kept as JSON text.

To save time, the server does not build a pydantic model of each span. msgspec decodes the column fields. The other
fields are validated once, and then stored and returned as JSON text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
import orjson
from pydantic import ValidationError
from pydantic_core import SchemaValidator, core_schema

from .. import payload, semconv
from ..errors import InvalidInput
from ..redaction import contains_keys, redact, redact_bytes
from ..rewards import AGENTOPS_OUTPUTS, TUTORIAL_SPAN, rewards_in
from ..semconv import LATE
from ..types import Span

MAX_SEQUENCE_ID: Final = 2**53 - 1
"""Maximum sequence number that a client may choose. Every JSON library can represent it exactly."""

_EMPTY_LIST = msgspec.Raw(b"[]")
_EMPTY_OBJECT = msgspec.Raw(b"{}")
_UNSET_STATUS = msgspec.Raw(b'{"status_code":"UNSET","description":null}')


class EncodedSpan(msgspec.Struct, forbid_unknown_fields=True):
    """A span whose nested fields are JSON text."""

    rollout_id: str
    attempt_id: str
    trace_id: str
    span_id: str
    name: str
    sequence_id: int = 0
    parent_id: str | None = None
    start_time: float | None = None
    end_time: float | None = None
    status: msgspec.Raw = _UNSET_STATUS
    attributes: msgspec.Raw = _EMPTY_OBJECT
    events: msgspec.Raw = _EMPTY_LIST
    links: msgspec.Raw = _EMPTY_LIST
    context: msgspec.Raw = msgspec.Raw(b"null")
    parent: msgspec.Raw = msgspec.Raw(b"null")
    resource: msgspec.Raw = msgspec.Raw(b'{"attributes":{},"schema_url":""}')

    def mark_late(self) -> None:
        """Mark the span as late, that is, received after the end of its attempt."""
        self.attributes = msgspec.Raw(orjson.dumps({**orjson.loads(bytes(self.attributes)), LATE: True}))

    def json(self) -> bytes:
        """Return the whole span as JSON text."""
        return _encoder.encode(self)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(EncodedSpan)


class SpanAck(msgspec.Struct, omit_defaults=True):
    """The store's acknowledgement of a stored span."""

    sequence_id: int
    late: bool = False
    """True if the span was received after the end of its attempt."""

    def apply_to(self, span: Span) -> Span:
        """Return a copy of the span as it was stored, with its sequence number and, if it was late, the late mark."""
        attributes = {**span.attributes, LATE: True} if self.late else span.attributes
        return span.model_copy(update={"sequence_id": self.sequence_id, "attributes": attributes})


def encode(spans: Sequence[Span]) -> list[EncodedSpan]:
    """Encode spans created in this process. Raises `InvalidInput` for invalid spans and for non-JSON values."""
    return [decode(payload.dumps(span.__dict__, field="span")) for span in spans]


def decode(text: bytes) -> EncodedSpan:
    """Decode a span from valid JSON text. Raises an `InvalidInput` that names the invalid field."""
    try:
        span = _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    check(span)
    return span


def check(span: EncodedSpan) -> None:
    """Raise `InvalidInput` if the `Span` model would reject the span, so that every stored span can be decoded."""
    for field in ("rollout_id", "attempt_id", "trace_id", "span_id", "parent_id"):
        value = getattr(span, field)
        if value is not None:
            payload.check_id(value, field)
    if "\x00" in span.name:
        raise InvalidInput("the name of a span must not contain a NUL character", field="name")
    if not 0 <= span.sequence_id <= MAX_SEQUENCE_ID:
        raise InvalidInput(
            "sequence_id must be a positive integer less than 2**53, or 0 to let the store assign one",
            field="sequence_id",
        )
    if not bytes(span.attributes).startswith(b"{"):
        raise InvalidInput("attributes must be an object", field="attributes")
    # Validate the other fields fully. This is fast, because most spans repeat combinations that are already known.
    form = b'{"status":%b,"events":%b,"links":%b,"context":%b,"parent":%b,"resource":%b}'
    small = form % tuple(map(bytes, _small_fields(span)))
    if small not in _known_shapes:
        _check_shape(small)


_small_fields = attrgetter("status", "events", "links", "context", "parent", "resource")
_known_shapes: set[bytes] = set()
_KNOWN_SHAPES = 1_000


def _check_shape(small: bytes) -> None:
    try:
        Span.model_validate(
            {"rollout_id": "", "attempt_id": "", "trace_id": "", "span_id": "", "name": "", **orjson.loads(small)}
        )
    except ValidationError as error:
        raise InvalidInput.of(error) from None
    if len(_known_shapes) < _KNOWN_SHAPES and len(small) < 2_000:
        _known_shapes.add(small)


def spans_to_json(spans: Sequence[EncodedSpan]) -> bytes:
    """Return the spans as JSON text that `redact_keys` can search for API keys."""
    return _encoder.encode(spans)


def redact_keys(spans: Sequence[EncodedSpan], text: bytes) -> None:
    """Replace API keys in spans with `[redacted]`, in place. `text` must be the result of `spans_to_json(spans)`.

    Raises `InvalidInput` if a trace id or span id looks like an API key, because redacted ids would not be unique.
    """
    if not contains_keys(text):
        return
    for span in spans:
        for field in ("trace_id", "span_id", "parent_id"):
            if contains_keys((getattr(span, field) or "").encode()):
                raise InvalidInput(f"{field} looks like an API key; use another id", field=field)
        span.name = redact(span.name)
        for field in ("attributes", "status", "events", "links", "context", "parent", "resource"):
            setattr(span, field, msgspec.Raw(redact_bytes(bytes(getattr(span, field)))))


def invalid(error: msgspec.ValidationError) -> InvalidInput:
    """Convert a decoding error to an `InvalidInput` that names the invalid field."""
    message = str(error)
    where = message.partition(" - at `$")[2].rstrip("`").lstrip(".") or _quoted(message)
    return InvalidInput(message.replace(" - at `$.", " - at `"), field=where or None)


def _quoted(message: str) -> str:
    parts = message.split("`")
    return parts[-2] if len(parts) > 2 else ""


# Partial decoding

_REWARD_SPANS = frozenset({semconv.ANNOTATION, semconv.REWARD, TUTORIAL_SPAN})
# Finds the quoted attribute keys of rewards in JSON text. If a prompt contains such a quoted key, its quotes are
# escaped, so the pattern does not match. Rust's regex engine is faster than Python's.
_MAY_REWARD = SchemaValidator(
    core_schema.str_schema(
        pattern="|".join(f'"{re.escape(key)}"' for key in (f"{semconv.REWARDS}.0.value", *AGENTOPS_OUTPUTS)),
        regex_engine="rust-regex",
    )
)


def primary_reward(span: EncodedSpan) -> float | None:
    """Return the span's primary reward, or None. Spans that cannot contain a reward (nearly all) are not parsed."""
    text = bytes(span.attributes)
    if span.name not in _REWARD_SPANS and not _MAY_REWARD.isinstance_python(text):
        return None
    rewards = rewards_in(span.name, orjson.loads(text))
    return rewards[0].value if rewards else None


def truncate_span(text: bytes, cut_at: int) -> bytes:
    """Truncate long attribute values if a span's JSON text exceeds `cut_at` bytes. Return the resulting JSON text.

    The original size is recorded in an attribute. The events are dropped if they alone exceed `cut_at` bytes.
    """
    if len(text) <= cut_at:
        return text
    span = _cut_decoder.decode(text)
    most = max(200, cut_at // 20)
    span.attributes = {
        name: msgspec.Raw(orjson.dumps(_truncate_attribute(bytes(value), most)))
        for name, value in span.attributes.items()
    }
    span.attributes[semconv.CUT] = msgspec.Raw(b"%d" % len(text))
    span.events = span.events if len(bytes(span.events)) <= cut_at else _EMPTY_LIST
    return _encoder.encode(span)


class _CutSpan(EncodedSpan):
    """A span whose attribute values stay encoded. Decoding megabytes of them would hold the GIL for too long."""

    attributes: dict[str, msgspec.Raw] = {}  # pyright: ignore[reportIncompatibleVariableOverride]


_cut_decoder = msgspec.json.Decoder(_CutSpan)


def _truncate_attribute(text: bytes, most: int) -> Any:
    """Decode the JSON text of an attribute's value.

    If a string has more than `most` characters, return only its beginning. If the JSON text of a list or object is
    longer than `most` bytes, return the beginning of this text.
    """
    if not text.startswith(b'"'):
        return truncate_value(text, most) if text[:1] in b"[{" else orjson.loads(text)
    if len(text) > _BYTES_PER_CHARACTER * (most + 1) + 2:
        beginning = _BEGINNING_OF_STRING.match(text, 0, _BYTES_PER_CHARACTER * (most + 1))
        assert beginning is not None
        text = beginning[0] + b'"'
    # Do not use orjson: the text may end between the two escapes of a character, and orjson rejects the first alone.
    value: str = json.loads(text.decode(errors="ignore"))
    return value if len(value) <= most else value[:most] + "…"


_BYTES_PER_CHARACTER = 12
"""Maximum size of a character in JSON text, in bytes: two escapes such as `\\ud83d`, which together encode it."""
_BEGINNING_OF_STRING = re.compile(rb'"(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*')
"""Matches the opening quote of a string in JSON text, and all following characters and complete escapes."""


def truncate_value(text: bytes, cut_at: int) -> Any:
    """Decode a value's JSON text, or return the beginning of the text if it is longer than `cut_at` bytes."""
    if len(text) <= cut_at:
        return orjson.loads(text)
    return text[:cut_at].decode(errors="ignore") + "…"
