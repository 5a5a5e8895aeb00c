"""Cassette: a rollout's recorded model calls, matched with the calls of a replay."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, cast

import orjson

from .. import semconv
from ..adapter.llm_call.attributes import object_in
from ..redaction import redact
from ..types import Span

JsonObject = dict[str, Any]

_NOT_COMPARED: Final = {"return_token_ids", "logprobs", "top_logprobs", "user", "metadata"}
"""Request fields that do not change the response."""
_MISSING: Final = object()


@dataclass(frozen=True)
class RecordedCall:
    """One successful call to a model."""

    path: str
    """After `/v1/`: chat/completions."""
    request: JsonObject
    response: JsonObject


class Cassette:
    """Recorded calls in their order; each response is returned once."""

    def __init__(self, calls: Iterable[RecordedCall]) -> None:
        self.calls = list(calls)
        self.unused = list(self.calls)
        """The calls that the replay has not made."""
        self.difference: str | None = None
        """The first call of the replay that does not match a recorded one, and the field that differs."""

    @classmethod
    def from_spans(cls, spans: Iterable[Span]) -> Cassette:
        """Read the calls of an attempt's spans; a call that two spans recorded occurs once."""
        calls: dict[str, RecordedCall] = {}
        for number, call in enumerate(_recorded_calls(spans)):
            response_id = call.response.get("id")
            calls.setdefault(str(response_id) if response_id else f"#{number}", call)
        return cls(calls.values())

    @property
    def used(self) -> int:
        """The number of responses that were returned."""
        return len(self.calls) - len(self.unused)

    def response_to(self, path: str, request: JsonObject) -> JsonObject | None:
        """Return the recorded response to a call. Return None and set `difference` if there is none."""
        redacted = orjson.loads(redact(json.dumps(request)))
        for index, call in enumerate(self.unused):
            if call.path == path and first_difference(call.request, redacted) is None:
                return self.unused.pop(index).response
        self.difference = self.difference or self._describe_mismatch(path, redacted)
        return None

    def _describe_mismatch(self, path: str, request: JsonObject) -> str:
        number = self.used + 1
        if not self.unused:
            return f"call {number}, to {path}, exceeds the {len(self.calls)} recorded calls"
        expected = self.unused[0]
        if expected.path != path:
            return f"call {number} goes to {path}, the recorded call to {expected.path}"
        return f"call {number} differs: {first_difference(expected.request, request)}"


def first_difference(recorded: Any, sent: Any, path: str = "") -> str | None:
    """Describe the first difference between two JSON values; None if there is none."""
    if isinstance(recorded, dict) and isinstance(sent, dict):
        old, new = cast("JsonObject", recorded), cast("JsonObject", sent)
        names = [name for name in {**old, **new} if path or name not in _NOT_COMPARED]
        pairs: Iterable[tuple[object, Any, Any]] = ((n, old.get(n, _MISSING), new.get(n, _MISSING)) for n in names)
    elif isinstance(recorded, list) and isinstance(sent, list):
        both = zip_longest(cast("list[Any]", recorded), cast("list[Any]", sent), fillvalue=_MISSING)
        pairs = ((index, *values) for index, values in enumerate(both))
    else:
        return None if recorded == sent else f"{path} was {_format(recorded)}, is {_format(sent)}"
    differences = (first_difference(old, new, f"{path}.{name}" if path else str(name)) for name, old, new in pairs)
    return next(filter(None, differences), None)


def _format(value: Any) -> str:
    if value is _MISSING:
        return "missing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:120] + "…"


def _recorded_calls(spans: Iterable[Span]) -> Iterator[RecordedCall]:
    for span in spans:
        request, response = (object_in(span.attributes, name) for name in (semconv.REQUEST, semconv.RESPONSE))
        if request and response and not response.get("error"):
            yield RecordedCall(api_path(str(span.attributes.get("url.path", ""))), request, response)


def api_path(url_path: str) -> str:
    """Return the part of a URL path after `/v1/`."""
    return (url_path.rpartition("/v1/")[2] or url_path).strip("/")
