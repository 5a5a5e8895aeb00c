"""Partial decoding of stored spans and values: rewards, and truncated text."""

from __future__ import annotations

import re
from typing import Any, cast

import orjson
from pydantic_core import SchemaValidator, core_schema

from .. import semconv
from ..rewards import AGENTOPS_OUTPUTS, TUTORIAL_SPAN, rewards_in
from .encoded_span import EncodedSpan

_REWARD_SPANS = frozenset({semconv.ANNOTATION, semconv.REWARD, TUTORIAL_SPAN})
# The keys as they appear in JSON text; inside a prompt their quotes would be escaped. Rust's regex is the fastest.
_MAY_REWARD = SchemaValidator(
    core_schema.str_schema(
        pattern="|".join(f'"{re.escape(key)}"' for key in (f"{semconv.REWARDS}.0.value", *AGENTOPS_OUTPUTS)),
        regex_engine="rust-regex",
    )
)


def primary_reward(span: EncodedSpan) -> float | None:
    """Return the span's primary reward. Nearly all spans cannot contain one, and are not parsed."""
    text = bytes(span.attributes)
    if span.name not in _REWARD_SPANS and not _MAY_REWARD.isinstance_python(text):
        return None
    rewards = rewards_in(span.name, orjson.loads(text))
    return rewards[0].value if rewards else None


def truncate_span(text: bytes, cut_at: int) -> bytes:
    """Truncate the longer attribute values of a span with more than `cut_at` bytes, and mark it with its size."""
    if len(text) <= cut_at:
        return text
    span: dict[str, Any] = orjson.loads(text)
    attributes = cast("dict[str, Any]", span["attributes"])
    most = max(200, cut_at // 20)
    for name, value in attributes.items():
        if isinstance(value, str) and len(value) > most:
            attributes[name] = value[:most] + "…"
        elif isinstance(value, (list, dict)):
            attributes[name] = truncate_value(orjson.dumps(value), most)
    attributes[semconv.CUT] = len(text)
    span["events"] = span["events"] if len(orjson.dumps(span["events"])) <= cut_at else []
    return orjson.dumps(span)


def truncate_value(text: bytes, cut_at: int) -> Any:
    """Decode the value, or return the beginning of its JSON text if that is longer than `cut_at`."""
    if len(text) <= cut_at:
        return orjson.loads(text)
    return text[:cut_at].decode(errors="ignore") + "…"
