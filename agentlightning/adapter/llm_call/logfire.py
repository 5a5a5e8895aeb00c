"""logfire's own attributes: the request in `request_data`, the answer in `response_data`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...instrumentation.dialects.base import as_object, items
from ...types import Span
from . import chat_format
from .attributes import object_in, usage_of
from .opentelemetry import common
from .view import Json, LLMCall

_ASKED = ("messages", "input", "prompt")


def read(span: Span) -> LLMCall | None:
    """The call, where the span holds logfire's record of one."""
    asked, answered = object_in(span.attributes, "request_data"), object_in(span.attributes, "response_data")
    if not any(key in asked for key in _ASKED):
        return None
    said = LLMCall(
        dialect="logfire",
        messages=_messages(asked),
        tools=chat_format.tools(asked.get("tools")),
        output=_output(answered),
        **common(span.attributes),
    )
    return replace(said, model=asked.get("model"), usage=usage_of(as_object(answered.get("usage"))))


def _messages(asked: Json) -> list[Json]:
    before = [{"role": "system", "content": said} for key in ("system", "instructions") if (said := asked.get(key))]
    said: Any = next(asked[key] for key in _ASKED if key in asked)
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else items(said)
    return chat_format.tidied([*before, *messages])


def _output(answered: Json) -> list[Json]:
    if message := as_object(answered.get("message")):
        return chat_format.tidied([message])
    said = answered.get("combined_chunk_content") or answered.get("text")
    return [{"role": "assistant", "content": said}] if isinstance(said, str) else []
