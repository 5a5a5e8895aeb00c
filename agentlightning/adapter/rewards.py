"""What user code said, read back from spans: rewards in every spelling they have had, messages, objects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import orjson

from .. import semconv

_AGENTOPS_OUTPUTS = ("agentops.task.output", "agentops.entity.output")
_TUTORIAL_SPAN, _TUTORIAL_ATTRIBUTE = "reward", "value"
_OLDER_ATTRIBUTE = "reward"
_PRIMARY = "primary"


class SpanLike(Protocol):
    """Anything with a name and attributes: our spans, and OpenTelemetry's."""

    @property
    def name(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, Any] | None: ...


S = TypeVar("S", bound=SpanLike)


class Reward(NamedTuple):
    """One number that an attempt was worth, in one respect."""

    name: str
    value: float


def is_reward_span(span: SpanLike) -> bool:
    """Whether the span carries a reward, in whichever spelling."""
    return bool(get_rewards_from_span(span))


def find_reward_spans(spans: Sequence[S]) -> list[S]:
    """Those of the spans that carry a reward, in their order."""
    return [span for span in spans if is_reward_span(span)]


def find_final_reward(spans: Sequence[SpanLike]) -> float | None:
    """The primary reward of the last span that carries one; None where none does."""
    values = (get_reward_value(span) for span in reversed(spans))
    return next((value for value in values if value is not None), None)


def get_reward_value(span: SpanLike) -> float | None:
    """The span's primary reward."""
    rewards = get_rewards_from_span(span)
    return rewards[0].value if rewards else None


def get_rewards_from_span(span: SpanLike) -> list[Reward]:
    """All rewards the span carries, the primary one first."""
    return [reward for reward in _spelled(span.name, span.attributes or {}) if reward is not None]


def get_message_value(span: SpanLike) -> str | None:
    """The text of a message span; None of any other."""
    said = (span.attributes or {}).get(semconv.MESSAGE_BODY)
    return said if span.name == semconv.MESSAGE and isinstance(said, str) else None


def get_object_value(span: SpanLike) -> Any:
    """The value of an object span, as it was emitted; None of any other."""
    attributes = span.attributes or {}
    if span.name != semconv.OBJECT:
        return None
    if semconv.OBJECT_LITERAL in attributes:
        return attributes[semconv.OBJECT_LITERAL]
    return _from_json(attributes.get(semconv.OBJECT_JSON))


def _spelled(name: str, attributes: Mapping[str, Any]) -> Iterable[Reward | None]:
    if found := list(_numbered(attributes)):
        return found
    if name in (semconv.REWARD, semconv.ANNOTATION) and _OLDER_ATTRIBUTE in attributes:
        return [_reward(attributes[_OLDER_ATTRIBUTE])]
    if name == _TUTORIAL_SPAN:
        return [_reward(attributes.get(_TUTORIAL_ATTRIBUTE))]
    return [_agentops(attributes[key]) for key in _AGENTOPS_OUTPUTS if key in attributes][:1]


def _numbered(attributes: Mapping[str, Any]) -> Iterator[Reward | None]:
    n = 0
    while (key := f"{semconv.REWARDS}.{n}.value") in attributes:
        yield _reward(attributes[key], str(attributes.get(f"{semconv.REWARDS}.{n}.name", _PRIMARY)))
        n += 1


def _agentops(output: Any) -> Reward | None:
    said = _from_json(output)
    if not isinstance(said, dict):
        return None
    entry = cast("dict[str, Any]", said)
    return _reward(entry.get("value")) if entry.get("type") == "reward" else None


def _reward(value: Any, name: str = _PRIMARY) -> Reward | None:
    # Nothing said is not zero, and a NaN that somebody stored as text is not a number.
    if isinstance(value, (int, float)) and math.isfinite(value):
        return Reward(name, float(value))
    return None


def _from_json(text: Any) -> Any:
    try:
        return orjson.loads(text) if isinstance(text, (str, bytes)) else text
    except orjson.JSONDecodeError:
        return None
