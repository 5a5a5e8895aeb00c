"""AgentOps' tool calls: the model's wish to call a tool is a span of its own, inside the call's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...types import Span
from . import chat_format
from .view import Json, LLMCall

_ID = "tool.call.id"


def tool_calls(spans: Sequence[Span]) -> dict[str, list[Json]]:
    """Tool calls that have a span of their own, by the span of the call that asked for them."""
    asked: dict[str, list[Json]] = {}
    for span in spans:
        if span.name.startswith("tool_call.") and _ID in span.attributes and span.parent_id:
            asked.setdefault(span.parent_id, []).append(_tool_call(span))
    return asked


def completed(call: LLMCall, asked: Mapping[str, list[Json]]) -> LLMCall:
    """The call with the tool calls that were recorded beside it, where it has none itself."""
    wanted = asked.get(call.span_ids[0])
    if not wanted or any(message.get("tool_calls") for message in call.output):
        return call
    said: Json = call.output[0] if call.output else {"role": "assistant", "content": None}
    return replace(call, output=[{**said, "content": said["content"] or None, "tool_calls": wanted}, *call.output[1:]])


def _tool_call(span: Span) -> Json:
    attributes = span.attributes
    return chat_format.tool_call(attributes[_ID], attributes.get("tool.name"), attributes.get("tool.parameters"))
