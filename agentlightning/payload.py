"""Encoding and validation of JSON values that every part of the system can transmit, store and display.

Values that would make later queries fail are forbidden and rejected on input: NaN and infinities, lone
surrogates, integers beyond 64 bits, values nested deeper than `MAX_DEPTH` levels, and objects with keys that are not
strings.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any, Final, cast

import orjson
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from .errors import InvalidInput, TooLarge

MAX_DEPTH: Final = 64
MAX_ID_LENGTH: Final = 256
MAX_VALUES: Final = 500_000
"""Default limit on the number of values in one JSON text. `check_size` explains how they are counted."""
MAX_ITEMS: Final = 10_000
"""Default limit on the number of rollouts, spans or attempts in one list that is sent to the store."""

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_LARGE_FLOAT = float(2**63)
_LEAVES = frozenset({str, int, bool, type(None)})
_SLICE = 256 * 1024
"""Number of bytes in which separators are counted at a time."""
_OUT_OF_MEMORY = "Not enough memory"
"""Part of the message of the `JSONDecodeError` that orjson raises when it runs out of memory."""
_SEPARATORS = b"[{,"
_INVALID_IN_ID = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def dumps(value: Any, *, field: str | None = None) -> bytes:
    """Encode `value` as JSON. Dataclasses, pydantic models, datetimes, sets etc. are converted to plain JSON.

    Raises an `InvalidInput` that names `field` if JSON cannot represent the value, or if it is nested too deeply.
    """
    check(value, field=field)
    return dumps_unchecked(value, field=field)


def dumps_fields(fields: dict[str, Any]) -> bytes:
    """Encode a dict as a JSON object. If a value is invalid, raise an `InvalidInput` that names the value's field."""
    for field, value in fields.items():
        check(value, field=field)
    try:
        return dumps_unchecked(fields)
    except InvalidInput:
        for field, value in fields.items():
            dumps_unchecked(value, field=field)
        raise


def dumps_unchecked(value: Any, *, field: str | None = None) -> bytes:
    """Encode `value` as JSON without checking it. Pass only values that `check` or `loads` has accepted.

    Raises an `InvalidInput` that names `field` if JSON cannot represent the value.
    """
    try:
        return orjson.dumps(value, default=_to_plain, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except (TypeError, ValueError) as error:
        reason = error.__cause__ or error
        raise InvalidInput(f"{field or 'the value'} cannot be stored as JSON: {reason}", field=field) from None


def loads(text: bytes | str, *, field: str | None = None, depth: int = MAX_DEPTH, values: int = MAX_VALUES) -> Any:
    """Decode untrusted JSON text.

    Raises `InvalidInput` if the text is malformed or contains a forbidden value, and `TooLarge` if it contains more
    than `values` values (see `check_size`).
    """
    check_size(text, field=field, values=values)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if _OUT_OF_MEMORY in str(error):
            raise MemoryError(str(error)) from None
        raise InvalidInput(f"{field or 'the text'} is not valid JSON: {error}", field=field) from None
    if check(value, field=field, depth=depth):
        _check_integers(text, field)
    return value


def check_size(text: bytes | str, *, field: str | None = None, values: int = MAX_VALUES) -> None:
    """Raise `TooLarge` if JSON text contains more than `values` values.

    The number of values is taken to be the number of opening brackets, opening braces and commas outside strings. The
    text is not decoded, because decoded values can take up to a hundred times as much memory as their text.
    """
    if len(text) <= values:
        return
    body = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if _count_separators(body) > values and _count_separators_outside_strings(body, values) > values:
        raise TooLarge(
            f"{field or 'the text'} contains more than {values} JSON values (the limit values): split it, or send long "
            "lists as JSON text in one string",
            field=field,
        )


def check(value: Any, *, field: str | None = None, depth: int = MAX_DEPTH) -> bool:
    """Raise `InvalidInput` if `value` is nested deeper than `depth` levels or contains NaN or an infinity.

    Return True if `value` contains a float whose absolute value is at least 2**63. orjson may have decoded such a float
    from an integer beyond 64 bits.
    """
    # A loop over the levels is faster than recursion.
    level: list[Any] = [value]
    large = False
    for _ in range(depth + 1):
        below: list[Any] = []
        for item in level:
            if type(item) in _LEAVES:
                continue
            if isinstance(item, float):
                if not math.isfinite(item):
                    raise InvalidInput(f"{field or 'the value'} contains {item}, which is not valid JSON", field=field)
                large = large or abs(item) >= _LARGE_FLOAT
            elif isinstance(item, dict):
                below.extend(cast("dict[Any, Any]", item).values())
            elif isinstance(item, (list, tuple)):
                below.extend(cast("list[Any]", item))
            elif isinstance(item, BaseModel):
                below.extend(item.__dict__.values())
        if not below:
            return large
        level = below
    raise InvalidInput(f"{field or 'the value'} nests deeper than {depth} levels", field=field)


def check_id(value: str, field: str) -> str:
    """Return the id `value` unchanged.

    Raises `InvalidInput` if it is empty, too long, or contains a control character or a lone surrogate.
    """
    if not value:
        raise InvalidInput(f"{field} is empty", field=field)
    if len(value) > MAX_ID_LENGTH:
        raise InvalidInput(f"{field} is longer than {MAX_ID_LENGTH} characters", field=field)
    if not value.isprintable() and _INVALID_IN_ID.search(value):
        raise InvalidInput(f"{field} {value!r} contains a control character", field=field)
    return value


def _count_separators(text: bytes) -> int:
    return len(text) - len(text.translate(None, _SEPARATORS))


def _count_separators_outside_strings(text: bytes, most: int) -> int:
    """Count the separators outside strings. Stop counting once there are more than `most`."""
    # Remove escaped backslashes and quotes, so that every remaining quote begins or ends a string.
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    count, in_string = 0, False
    for start in range(0, len(text), _SLICE):
        parts = text[start : start + _SLICE].split(b'"')
        count += _count_separators(b"".join(parts[in_string::2]))
        if count > most:
            break
        in_string ^= len(parts) % 2 == 0
    return count


def _check_integers(text: bytes | str, field: str | None) -> None:
    # orjson decodes an integer beyond 64 bits as a float, so the stored number would differ from the original.
    def check_members(members: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, value in members:
            check_value(value, name)
        return dict(members)

    def check_value(value: Any, name: str | None) -> None:
        if isinstance(value, list):
            for item in cast("list[Any]", value):
                check_value(item, name)
        elif type(value) is int and not _MIN_INTEGER <= value <= _MAX_INTEGER:
            raise InvalidInput(f"{name or 'the value'} contains {value}, an integer beyond 64 bits", field=name)

    try:
        check_value(json.loads(text, object_pairs_hook=check_members), field)
    except RecursionError:
        # An object repeats a key. orjson kept only the last value, so `check` did not see the deeply nested one.
        raise InvalidInput(f"{field or 'the value'} nests deeper than {MAX_DEPTH} levels", field=field) from None


def _to_plain(value: Any) -> Any:
    # For this package's own types, encoding the fields with orjson is several times faster than pydantic's dump.
    if _is_own_type(cast("type[Any]", type(value))):
        return value.__dict__
    plain = to_jsonable_python(value)
    check(plain)
    return plain


@lru_cache(1_000)
def _is_own_type(kind: type[Any]) -> bool:
    # The `__module__` of a parametrised generic class is the module that first parametrised it, so check its origin.
    origin = getattr(kind, "__pydantic_generic_metadata__", {}).get("origin") or kind
    return origin.__module__.startswith("agentlightning.types.")
