"""Reader for indexed attributes (`gen_ai.prompt.N.content`), as written by AgentOps and older libraries.

AgentOps also records each tool call in a response as a child of the LLM call's span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ... import semconv
from ...instrumentation.dialects.base import as_object, items
from ...types import Span
from . import chat_format
from .attributes import Attributes, from_json, nested, objects_in
from .opentelemetry import build_call
from .view import Json, LLMCall

_OPERATIONS = {"completion": "text_completion", "embedding": "embeddings"}
_TOOL_CALL_ID = "tool.call.id"


def read(span: Span) -> LLMCall | None:
    """Parse a span that has a request model and indexed messages or a request type. Return None for any other span."""
    attributes = span.attributes
    prompt = items(nested(attributes, semconv.GEN_AI_PROMPT))
    completion = items(nested(attributes, semconv.GEN_AI_COMPLETION))
    kind = attributes.get("gen_ai.request.type", attributes.get("llm.request.type"))
    if not (prompt or completion or kind) or semconv.GEN_AI_REQUEST_MODEL not in attributes:
        return None
    reason = next((message.get("finish_reason") for message in completion if message.get("finish_reason")), None)
    return build_call(
        attributes,
        dialect="indexed",
        operation=_OPERATIONS.get(str(kind), "chat"),
        messages=_chat(prompt, "user"),
        tools=_tools(attributes),
        output=_chat([message for message in completion if _has_content(message)], "assistant"),
        finish=reason or attributes.get("gen_ai.response.finish_reason"),
    )


def _chat(messages: list[Json], role: str) -> list[Json]:
    return chat_format.normalize(_message(message, role) for message in messages)


def _message(message: Json, role: str) -> Json:
    kept = {key: message[key] for key in ("name", "tool_call_id", "refusal") if key in message}
    content = from_json(message.get("content"))
    # Content with images is recorded as a JSON list of parts. Any other content stays text, even if it is valid JSON.
    parts = content if items(content) and all("type" in part for part in items(content)) else message.get("content")
    return {"role": message.get("role") or role, **kept, "content": parts, "tool_calls": message.get("tool_calls")}


def _has_content(message: Json) -> bool:
    return any(message.get(key) for key in ("content", "tool_calls", "refusal"))


def _tools(attributes: Attributes) -> list[Json] | None:
    if schemas := objects_in(attributes, "anthropic.tools.schemas"):
        return chat_format.tools([{"name": tool.get("name"), **as_object(tool.get("schema"))} for tool in schemas])
    functions: Any = nested(attributes, "gen_ai.request.functions") or nested(attributes, "llm.request.functions")
    return chat_format.tools(
        [{**function, "parameters": from_json(function.get("parameters"))} for function in items(functions)]
    )


# Tool calls recorded in separate spans


def tool_calls(spans: Sequence[Span]) -> dict[str, list[Json]]:
    """Return the tool calls that were recorded in separate spans, grouped by the id of the LLM call's span."""
    found: dict[str, list[Json]] = {}
    for span in spans:
        if span.name.startswith("tool_call.") and _TOOL_CALL_ID in span.attributes and span.parent_id:
            attributes = span.attributes
            name, arguments = attributes.get("tool.name"), attributes.get("tool.parameters")
            tool_call = chat_format.tool_call(attributes[_TOOL_CALL_ID], name, arguments)
            found.setdefault(span.parent_id, []).append(tool_call)
    return found


def add_tool_calls(call: LLMCall, by_span: Mapping[str, list[Json]]) -> LLMCall:
    """Add the tool calls from `by_span` (see `tool_calls`) to a call whose output does not contain any."""
    found = by_span.get(call.span_ids[0])
    if not found or any(message.get("tool_calls") for message in call.output):
        return call
    message: Json = call.output[0] if call.output else {"role": "assistant", "content": None}
    message = {**message, "content": message["content"] or None, "tool_calls": found}
    return replace(call, output=[message, *call.output[1:]])
