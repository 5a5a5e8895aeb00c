"""Functions that read rewards (in every supported format), messages and objects from spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import orjson

from .. import semconv
from ..rewards import Reward, rewards_in


class SpanLike(Protocol):
    """Anything with a name and attributes, such as a `Span` or an OpenTelemetry span."""

    @property
    def name(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, Any] | None: ...


S = TypeVar("S", bound=SpanLike)


def is_reward_span(span: SpanLike) -> bool:
    """Return True if the span contains a reward in any supported format."""
    return bool(get_rewards_from_span(span))


def find_reward_spans(spans: Sequence[S]) -> list[S]:
    """Return the spans that contain a reward, in their original order."""
    return [span for span in spans if is_reward_span(span)]


def find_final_reward(spans: Sequence[SpanLike]) -> float | None:
    """Return the primary reward in the last span that contains a reward, or None if there is no such span."""
    values = (get_reward_value(span) for span in reversed(spans))
    return next((value for value in values if value is not None), None)


def get_reward_value(span: SpanLike) -> float | None:
    """Return the primary reward in the span, or None if the span does not contain a reward."""
    rewards = get_rewards_from_span(span)
    return rewards[0].value if rewards else None


def get_rewards_from_span(span: SpanLike) -> list[Reward]:
    """Return all rewards in the span. The primary reward is the first."""
    return rewards_in(span.name, span.attributes or {})


def get_message_value(span: SpanLike) -> str | None:
    """Return the text of a message span, or None for any other span."""
    body = (span.attributes or {}).get(semconv.MESSAGE_BODY)
    return body if span.name == semconv.MESSAGE and isinstance(body, str) else None


def get_object_value(span: SpanLike) -> Any:
    """Return the value that `emit_object` recorded in the span, or None for any other span."""
    attributes = span.attributes or {}
    if span.name != semconv.OBJECT:
        return None
    if semconv.OBJECT_LITERAL in attributes:
        return attributes[semconv.OBJECT_LITERAL]
    text = attributes.get(semconv.OBJECT_JSON)
    try:
        return orjson.loads(text) if isinstance(text, (str, bytes)) else text
    except orjson.JSONDecodeError:
        return None
