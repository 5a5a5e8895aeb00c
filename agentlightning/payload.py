"""What may travel: JSON that every part of the system can carry, store and show again.

Refused at the door, so that nothing accepted can poison a list later: NaN and infinities, lone surrogates,
integers beyond 64 bits, nesting beyond `MAX_DEPTH`, keys that are not strings.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any, cast

import orjson
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from .errors import InvalidInput

MAX_DEPTH = 64

_LEAVES = frozenset({str, int, bool, type(None)})


def dumps(value: Any, *, field: str | None = None) -> bytes:
    """JSON text of `value`; dataclasses, pydantic models, datetimes, sets and the like become plain JSON.

    Raises `InvalidInput` naming `field` where JSON cannot hold the value.
    """
    check(value, field=field)
    return _dumps(value, field)


def dumps_fields(fields: dict[str, Any]) -> bytes:
    """JSON text of an object. Raises `InvalidInput` naming the one of `fields` that JSON cannot hold."""
    for field, value in fields.items():
        check(value, field=field)
    try:
        return _dumps(fields, None)
    except InvalidInput:
        for field, value in fields.items():
            _dumps(value, field)
        raise


def dumps_sound(value: Any) -> bytes:
    """JSON text of a value that is known to be sound, because it was checked when it came."""
    return _dumps(value, None)


def loads(text: bytes | str, *, field: str | None = None, depth: int = MAX_DEPTH) -> Any:
    """The value of JSON text that came from outside. Raises `InvalidInput`."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"{field or 'the text'} is not valid JSON: {error}", field=field) from None
    if check(value, field=field, depth=depth):
        _refuse_long_integers(text, field)
    return value


def check(value: Any, *, field: str | None = None, depth: int = MAX_DEPTH) -> bool:
    """Raise `InvalidInput` where `value` nests deeper than `depth` or holds NaN or an infinity.

    True when it holds a float so large that it may have been written as an integer beyond 64 bits.
    """
    # A loop with its own stack: recursion would meet Python's limit before ours, and be slower.
    level: list[Any] = [value]
    huge = False
    for _ in range(depth + 1):
        below: list[Any] = []
        for item in level:
            if type(item) in _LEAVES:
                continue
            if isinstance(item, float):
                if not math.isfinite(item):
                    raise InvalidInput(f"{field or 'the value'} holds {item}, which JSON cannot carry", field=field)
                huge = huge or abs(item) >= _BEYOND
            elif isinstance(item, dict):
                below.extend(cast("dict[Any, Any]", item).values())
            elif isinstance(item, (list, tuple)):
                below.extend(cast("list[Any]", item))
            elif isinstance(item, BaseModel):
                below.extend(item.__dict__.values())
        if not below:
            return huge
        level = below
    raise InvalidInput(f"{field or 'the value'} nests deeper than {depth} levels", field=field)


MAX_ID_LENGTH = 256

_NOT_IN_AN_ID = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def check_id(value: str, field: str) -> str:
    """`value`, where it can be an id: not empty, not overlong, no control characters. Raises `InvalidInput`."""
    if not value:
        raise InvalidInput(f"{field} is empty", field=field)
    if len(value) > MAX_ID_LENGTH:
        raise InvalidInput(f"{field} is longer than {MAX_ID_LENGTH} characters", field=field)
    if not value.isprintable() and _NOT_IN_AN_ID.search(value):
        raise InvalidInput(f"{field} {value!r} holds a control character", field=field)
    return value


_BEYOND = float(2**63)


def _refuse_long_integers(text: bytes | str, field: str | None) -> None:
    # orjson reads such an integer as a float; what was accepted would come back as another number.
    def look(members: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, value in members:
            refuse(value, name)
        return dict(members)

    def refuse(value: Any, name: str | None) -> None:
        if isinstance(value, list):
            for item in cast("list[Any]", value):
                refuse(item, name)
        elif type(value) is int and not -(2**63) <= value < 2**64:
            raise InvalidInput(f"{name or 'the value'} holds {value}, an integer beyond 64 bits", field=name)

    refuse(json.loads(text, object_pairs_hook=look), field)


def _dumps(value: Any, field: str | None) -> bytes:
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except (TypeError, ValueError) as error:
        why = error.__cause__ or error
        raise InvalidInput(f"{field or 'the value'} cannot be stored as JSON: {why}", field=field) from None


def _plain(value: Any) -> Any:
    # Our own nouns are their fields; orjson walks those several times faster than pydantic writes them out.
    if _is_noun(cast("type[Any]", type(value))):
        return value.__dict__
    plain = to_jsonable_python(value)
    check(plain)
    return plain


@lru_cache(1_000)
def _is_noun(kind: type[Any]) -> bool:
    # A generic one with its parameters belongs to whichever module named it so first.
    origin = getattr(kind, "__pydantic_generic_metadata__", {}).get("origin") or kind
    return origin.__module__.startswith("agentlightning.types.")
