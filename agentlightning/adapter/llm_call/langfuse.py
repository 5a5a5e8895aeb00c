"""Reader for Langfuse's attributes, such as `langfuse.observation.input`. Langfuse calls an LLM call a generation."""

from __future__ import annotations

from typing import Any

from ...instrumentation.dialects import openai
from ...instrumentation.dialects.base import as_object, items
from ...types import Span
from . import chat_format
from .attributes import Attributes, from_json, object_in, usage
from .view import Json, LLMCall

_PREFIX = "langfuse.observation"


def read(span: Span) -> LLMCall | None:
    """Parse the span of a generation or an embedding. Return None for any other span."""
    kind = span.attributes.get(f"{_PREFIX}.type")
    if kind not in ("generation", "embedding"):
        return None
    request: Any = from_json(span.attributes.get(f"{_PREFIX}.input"))
    output = _output(from_json(span.attributes.get(f"{_PREFIX}.output")))
    return LLMCall(
        dialect="langfuse",
        operation="embeddings" if kind == "embedding" else "chat",
        model=span.attributes.get(f"{_PREFIX}.model.name"),
        messages=_messages(request),
        tools=chat_format.tools(as_object(request).get("tools")),
        output=output,
        finish_reason=_finish_reason(span.attributes, output),
        usage=usage(object_in(span.attributes, f"{_PREFIX}.usage_details")),
        parameters=object_in(span.attributes, f"{_PREFIX}.model.parameters"),
    )


def _messages(request: Any) -> list[Json]:
    body = as_object(request) or {"messages": request}
    if "messages" in body:
        return chat_format.conversation(body["messages"], "user")
    return chat_format.from_messages((openai.RESPONSES if "input" in body else openai.COMPLETIONS).prompt(body))


def _output(value: Any) -> list[Json]:
    output = items(value) or [as_object(value)]
    if any("type" in item for item in output):
        return chat_format.from_messages(openai.RESPONSES.answer({"output": output}))
    return chat_format.conversation(value, "assistant")


def _finish_reason(attributes: Attributes, output: list[Json]) -> str | None:
    reason = attributes.get(f"{_PREFIX}.metadata.finish_reason")
    if isinstance(reason, str):
        return chat_format.finish_reason(reason.strip('"'))
    return "tool_calls" if output and output[0].get("tool_calls") else None
