"""The tape: a rollout's exchanges with its models, as they were recorded, and where a new call differs from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson

from .. import semconv
from ..redaction import without_keys
from ..types import Span

JsonObject = dict[str, Any]

_NOT_COMPARED: Final = {"return_token_ids", "logprobs", "top_logprobs", "user", "metadata"}
"""Members of a request that may differ without another answer being due."""
_MISSING: Final = object()


@dataclass(frozen=True)
class Exchange:
    """One call of a model that was answered."""

    path: str
    """Without what stands before `/v1`: chat/completions."""
    request: JsonObject
    response: JsonObject


@dataclass
class Tape:
    """Exchanges in their order; each is played once."""

    exchanges: list[Exchange]
    played: int = 0
    difference: str | None = None
    """What the first call was that is not on the tape, and how it differs."""
    _left: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._left = list(range(len(self.exchanges)))

    @classmethod
    def of(cls, spans: Iterable[Span]) -> Tape:
        """What is on record in an attempt's spans; a call that two recorders have seen is there once."""
        seen: dict[str, Exchange] = {}
        for number, exchange in enumerate(_exchanges(spans)):
            name = exchange.response.get("id")
            seen.setdefault(str(name) if name else f"#{number}", exchange)
        return cls(list(seen.values()))

    @property
    def unplayed(self) -> int:
        """Calls on the tape that were not made."""
        return len(self._left)

    def answer(self, path: str, request: JsonObject) -> JsonObject | None:
        """The recorded answer to a call; None, and `difference` says why, where there is none."""
        told = orjson.loads(without_keys(json.dumps(request)))
        for index in self._left:
            exchange = self.exchanges[index]
            if exchange.path == path and first_difference(exchange.request, told) is None:
                self._left.remove(index)
                self.played += 1
                return exchange.response
        self.difference = self.difference or self._explain(path, told)
        return None

    def _explain(self, path: str, request: JsonObject) -> str:
        number = self.played + 1
        if not self._left:
            return f"call {number}, to {path}, is one more than the {len(self.exchanges)} on the tape"
        expected = self.exchanges[self._left[0]]
        if expected.path != path:
            return f"call {number} goes to {path}, on the tape to {expected.path}"
        return f"call {number} differs: {first_difference(expected.request, request)}"


def first_difference(was: Any, now: Any, where: str = "") -> str | None:
    """The first place where two JSON values differ, in words; None where they do not."""
    if isinstance(was, dict) and isinstance(now, dict):
        old, new = cast("JsonObject", was), cast("JsonObject", now)
        names = [name for name in {**old, **new} if where or name not in _NOT_COMPARED]
        pairs: Iterator[tuple[str, Any, Any]] = ((n, old.get(n, _MISSING), new.get(n, _MISSING)) for n in names)
    elif isinstance(was, list) and isinstance(now, list):
        before, after = cast("list[Any]", was), cast("list[Any]", now)
        longest = max(len(before), len(after))
        pairs = ((str(n), _at(before, n), _at(after, n)) for n in range(longest))
    else:
        return None if was == now else f"{where} was {_shown(was)}, is {_shown(now)}"
    found = (first_difference(old, new, f"{where}.{name}" if where else name) for name, old, new in pairs)
    return next((difference for difference in found if difference), None)


def _at(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else _MISSING


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "not there"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:120] + "…"


def _exchanges(spans: Iterable[Span]) -> Iterator[Exchange]:
    for span in spans:
        request, response = (_object(span.attributes.get(name)) for name in (semconv.REQUEST, semconv.RESPONSE))
        if request and response and not response.get("error"):
            yield Exchange(path_of(str(span.attributes.get("url.path", ""))), request, response)


def path_of(url_path: str) -> str:
    """What is asked for, wherever the model is served."""
    return (url_path.rpartition("/v1/")[2] or url_path).strip("/")


def _object(text: Any) -> JsonObject:
    try:
        value: Any = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return {}
    return cast("JsonObject", value) if isinstance(value, dict) else {}
