"""Reader for OpenTelemetry's GenAI conventions: `gen_ai.input.messages` etc., in a span's attributes or an event."""

from __future__ import annotations

from typing import Any

from ... import semconv
from ...instrumentation.dialects.base import Message, as_object, items
from ...types import Span
from . import chat_format
from .attributes import Attributes, first, from_json, nested, objects_in, parameters, tokens_of_span, usage
from .view import Json, LLMCall

_OPERATIONS = {
    "chat": "chat",
    "generate_content": "chat",
    "text_completion": "text_completion",
    "completion": "text_completion",
    "embeddings": "embeddings",
}
"""Names of operations that are a single LLM call, and their names in `LLMCall`. Agent and tool spans have others."""
_USAGE = "gen_ai.usage"
_DETAILS = "gen_ai.client.inference.operation.details"
_MARKERS = (semconv.GEN_AI_INPUT_MESSAGES, semconv.GEN_AI_OUTPUT_MESSAGES, semconv.GEN_AI_OPERATION_NAME)


def read(span: Span) -> LLMCall | None:
    """Parse a span that records an LLM call according to the conventions. Return None for any other span."""
    attributes = _with_details(span)
    operation = str(attributes.get(semconv.GEN_AI_OPERATION_NAME, "chat"))
    if operation not in _OPERATIONS or not any(marker in attributes for marker in _MARKERS):
        return None
    output = objects_in(attributes, semconv.GEN_AI_OUTPUT_MESSAGES)
    return build_call(
        attributes,
        dialect="opentelemetry",
        operation=_OPERATIONS[operation],
        messages=[*_instructions(attributes), *_chat(objects_in(attributes, semconv.GEN_AI_INPUT_MESSAGES))],
        tools=chat_format.tools(from_json(attributes.get(semconv.GEN_AI_TOOL_DEFINITIONS))),
        output=_chat(output),
        finish=output[0].get("finish_reason") if output else None,
    )


def build_call(attributes: Attributes, *, dialect: str, finish: Any = None, **fields: Any) -> LLMCall:
    """Build a call from `fields` and from the attributes that are the same in every message format."""
    return LLMCall(
        dialect=dialect,
        model=first(attributes, (semconv.GEN_AI_RESPONSE_MODEL, semconv.GEN_AI_REQUEST_MODEL)),
        finish_reason=chat_format.finish_reason(finish or _first_reason(attributes)),
        usage=usage(nested(attributes, _USAGE)),
        response_id=attributes.get(semconv.GEN_AI_RESPONSE_ID),
        parameters=parameters(as_object(nested(attributes, semconv.GEN_AI_REQUEST))),
        **tokens_of_span(attributes),
        **fields,
    )


def _with_details(span: Span) -> Attributes:
    details: Json = {}
    for event in span.events:
        if event.name == _DETAILS:
            details |= event.attributes
    return {**details, **span.attributes} if details else span.attributes


def _instructions(attributes: Attributes) -> list[Json]:
    value = from_json(attributes.get(semconv.GEN_AI_SYSTEM_INSTRUCTIONS))
    parts = _parts({"content": value})
    return chat_format.from_messages([Message("system", parts)]) if parts else []


def _chat(messages: list[Json]) -> list[Json]:
    return chat_format.from_messages(Message(str(each.get("role") or "user"), _parts(each)) for each in messages)


def _parts(message: Json) -> list[Json]:
    if "parts" in message:
        return items(message["parts"])
    content = message.get("content")
    return [{"type": "text", "content": content}] if isinstance(content, str) else items(content)


def _first_reason(attributes: Attributes) -> Any:
    match from_json(attributes.get(semconv.GEN_AI_RESPONSE_FINISH_REASONS)):
        case [reason, *_]:
            return reason
        case [] | None:
            return None
        case reason:
            return reason
