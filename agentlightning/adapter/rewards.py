"""What user code said, read back from spans: rewards in every spelling they have had, messages, objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import orjson

from .. import semconv
from ..rewards import Reward, rewards_in


class SpanLike(Protocol):
    """Anything with a name and attributes: our spans, and OpenTelemetry's."""

    @property
    def name(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, Any] | None: ...


S = TypeVar("S", bound=SpanLike)


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
    return rewards_in(span.name, span.attributes or {})


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


def _from_json(text: Any) -> Any:
    try:
        return orjson.loads(text) if isinstance(text, (str, bytes)) else text
    except orjson.JSONDecodeError:
        return None
