"""langfuse: `langfuse.observation.input` and `.output` of a generation."""

from __future__ import annotations

from typing import Any

from ...instrumentation.dialects import Message, completions, responses
from ...instrumentation.dialects.base import as_object, items
from ...types import Span
from . import chat_format
from .attributes import Attributes, from_json, object_in, usage_of
from .view import Json, LLMCall

_OBSERVATION = "langfuse.observation"


def read(span: Span) -> LLMCall | None:
    """The call, where the span is a generation or an embedding."""
    kind = span.attributes.get(f"{_OBSERVATION}.type")
    if kind not in ("generation", "embedding"):
        return None
    asked: Any = from_json(span.attributes.get(f"{_OBSERVATION}.input"))
    output = _output(from_json(span.attributes.get(f"{_OBSERVATION}.output")))
    return LLMCall(
        dialect="langfuse",
        operation="embeddings" if kind == "embedding" else "chat",
        model=span.attributes.get(f"{_OBSERVATION}.model.name"),
        messages=_messages(asked),
        tools=chat_format.tools(as_object(asked).get("tools")),
        output=output,
        finish_reason=_finish(span.attributes, output),
        usage=usage_of(object_in(span.attributes, f"{_OBSERVATION}.usage_details")),
        parameters=object_in(span.attributes, f"{_OBSERVATION}.model.parameters"),
    )


def _messages(asked: Any) -> list[Json]:
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    body = as_object(asked) or {"messages": asked}
    if "messages" in body:
        return chat_format.tidied(items(body["messages"]))
    return _from((responses if "input" in body else completions).prompt(body))


def _output(said: Any) -> list[Json]:
    if isinstance(said, str):
        return [{"role": "assistant", "content": said}] if said else []
    spoken = items(said) or ([as_object(said)] if said else [])
    if any("type" in item for item in spoken):
        return _from(responses.answer({"output": spoken}))
    return chat_format.tidied(spoken)


def _from(messages: list[Message]) -> list[Json]:
    return chat_format.from_parts((message.role, message.parts) for message in messages)


def _finish(attributes: Attributes, output: list[Json]) -> str | None:
    said = attributes.get(f"{_OBSERVATION}.metadata.finish_reason")
    if isinstance(said, str):
        return chat_format.finish_reason(said.strip('"'))
    return "tool_calls" if output and output[0].get("tool_calls") else None
