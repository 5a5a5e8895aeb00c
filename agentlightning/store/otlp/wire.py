"""Splitting of an OTLP request in protobuf format into its encoded spans, and limits on the values in a span.

The protobuf library decodes a whole message in one call. A few kilobytes of gzip data can expand to millions of
objects, so that call would delay every other request. The functions in this module read only the boundaries of
messages, do not create any protobuf objects, and stop as soon as a request exceeds a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ...errors import InvalidInput, TooLarge
from ...http.limits import Limits

_FIELDS_PER_SPAN: Final = 8
"""Maximum number of fields per span outside the spans. A span that has its own resource needs 7."""
_EXTRA_FIELDS: Final = 8_000
"""Number of fields that a request may have in addition, for example for resources without spans."""
_FIELDS_PER_VALUE: Final = 6
"""Maximum number of fields per value in a span. Links have the most: their own five, and the one that contains them."""
_MAX_SHIFT: Final = 63
"""Number of bits that precede the tenth and last byte of an integer, at 7 bits per byte."""
_LENGTH_DELIMITED = 2
"""A wire type: the lowest three bits of a field's tag. The other bits are the field's number."""
_SHORT_TAGS: Final = frozenset(range(8 + _LENGTH_DELIMITED, 0x80, 8))
"""The one-byte tags of length-delimited fields."""
_INVALID_FIELD: Final = "a field is longer than its message or has no number"


class SpanGroup(NamedTuple):
    """Spans that share a resource. Each span and the resource are still encoded."""

    resource: bytes
    schema_url: str
    spans: list[bytes]


def too_many(what: str, limit: str, value: int, remedy: str) -> TooLarge:
    """Return the error for a request that has more than `value` spans or values. `limit` is the limit's name."""
    return TooLarge(f"the request has more than {value} {what} (Limits.{limit}); {remedy}", field="body")


def split_request(body: bytes, limits: Limits) -> list[SpanGroup]:
    """Split an `ExportTraceServiceRequest` into its spans, grouped by resource.

    Raises `InvalidInput` if the request is malformed, and `TooLarge` if it has more than `limits.spans` spans.
    """
    return _Splitter(body, limits).groups()


class _Splitter:
    def __init__(self, body: bytes, limits: Limits) -> None:
        self._body = body
        self._limits = limits
        self._spans = 0
        self._fields = 0

    def groups(self) -> list[SpanGroup]:
        messages = self._messages(0, len(self._body))
        return [self._group(start, end) for number, start, end in messages if number == 1]

    def _group(self, start: int, end: int) -> SpanGroup:
        resource: list[bytes] = []
        schema_url = b""
        spans: list[bytes] = []
        for number, at, until in self._messages(start, end):
            if number == 1:
                resource.append(self._body[at:until])  # if the resource is repeated, protobuf merges the parts
            elif number == 2:
                spans += self._spans_in_scope(at, until)
            elif number == 3:
                schema_url = self._body[at:until]
        try:
            return SpanGroup(b"".join(resource), schema_url.decode(), spans)
        except UnicodeDecodeError:
            raise malformed("a schema_url is not UTF-8") from None

    def _spans_in_scope(self, start: int, end: int) -> Iterator[bytes]:
        for number, at, until in self._messages(start, end):
            if number == 2:
                self._spans += 1
                if self._spans > self._limits.spans:
                    raise too_many("spans", "spans", self._limits.spans, "send fewer spans in each request")
                yield self._body[at:until]

    def _messages(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield the number, start and end of each length-delimited field. Other fields are skipped."""
        body = self._body
        while start < end:
            self._fields += 1
            if self._fields > _FIELDS_PER_SPAN * self._spans + _EXTRA_FIELDS:
                raise malformed(f"it has {self._fields} fields, but only {self._spans} spans")
            tag, start = read_varint(body, start, end)
            start, until = _content(body, tag, start, end)
            if tag & 7 == _LENGTH_DELIMITED:
                yield tag >> 3, start, until
            start = until


def read_varint(body: bytes, start: int, end: int) -> tuple[int, int]:
    """Return the variable-length integer (varint) at `start`, and the position after it."""
    value = shift = 0
    while start < end and shift <= _MAX_SHIFT:
        byte = body[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
    raise malformed("an integer is truncated or longer than 10 bytes")


def _content(body: bytes, tag: int, start: int, end: int) -> tuple[int, int]:
    """Return the start and end of the content of the field whose tag ends at `start`."""
    until = end + 1
    match tag & 7:
        case 0:
            _, until = read_varint(body, start, end)
        case 1:
            until = start + 8
        case 2:
            size, start = read_varint(body, start, end)
            until = start + size
        case 5:
            until = start + 4
        case _:
            raise malformed("it contains a group or an unknown wire type")
    if until > end or tag < 8:
        raise malformed(_INVALID_FIELD)
    return start, until


def malformed(reason: object) -> InvalidInput:
    """Return the error for a body that is not an OTLP request."""
    return InvalidInput(f"the body is not an OTLP trace request: {reason}", field="body")


# Values within a span


class _Schema(dict[int, "tuple[_Schema, bool]"]):
    """The fields of a message that may contain values, by tag.

    Each maps to the schema of its content, and to True if the field itself counts as a value.
    """


_ANY_VALUE = _Schema()
_PAIR = _Schema({0x12: (_ANY_VALUE, False)})
_PAIRS = _Schema({0x0A: (_PAIR, True)})
_ANY_VALUE.update({0x2A: (_Schema({0x0A: (_ANY_VALUE, True)}), False), 0x32: (_PAIRS, False)})
_EVENT, _LINK = _Schema({0x1A: (_PAIR, True)}), _Schema({0x22: (_PAIR, True)})
_SPAN = _Schema({0x4A: (_PAIR, True), 0x5A: (_EVENT, True), 0x6A: (_LINK, True)})


def count_values(message: bytes, limit: int, *, is_resource: bool = False) -> int:
    """Return the number of attributes, events, links and nested values in a span or resource.

    Returns 0 if the message is too short to have more than `limit` values. Raises `TooLarge` if it has more, and
    `InvalidInput` if the message is malformed or repeats fields that must not be repeated.
    """
    if len(message) <= 2 * limit:  # each value takes at least two bytes
        return 0
    values = fields = 0
    pending = [(0, len(message), _PAIRS if is_resource else _SPAN)]
    while pending:
        at, end, schema = pending.pop()
        while at < end:
            tag, start = message[at], at + 2
            if tag in _SHORT_TAGS and start <= end and (size := message[start - 1]) < 0x80 and start + size <= end:
                until = start + size  # most fields take this branch, because it is much faster than `_field`
            else:
                tag, start, until = _field(message, at, end)
            fields += 1
            if found := schema.get(tag):
                values += found[1]
                if start < until:
                    pending.append((start, until, found[0]))
            if values > limit:
                remedy = "send long lists as JSON text in one attribute"
                raise too_many("values in one span", "span_values", limit, remedy)
            if fields > _FIELDS_PER_VALUE * (values + 50):
                raise malformed("it repeats fields that must not be repeated")
            at = until
    return values


def _field(body: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Return the tag of the field at `at`, and the start and end of its content."""
    tag, start = read_varint(body, at, end)
    return tag, *_content(body, tag, start, end)
