"""Indexed attributes, `gen_ai.prompt.N.content`: what AgentOps and older instrumentations write."""

from __future__ import annotations

from typing import Any

from ... import semconv
from ...instrumentation.dialects.base import as_object, items
from ...types import Span
from . import chat_format
from .attributes import Attributes, from_json, nested, objects_in
from .opentelemetry import common
from .view import Json, LLMCall

_OPERATIONS = {"completion": "text_completion", "embedding": "embeddings"}


def read(span: Span) -> LLMCall | None:
    """The call, where the span holds numbered messages, or AgentOps says that it is one."""
    attributes = span.attributes
    asked = items(nested(attributes, semconv.GEN_AI_PROMPT))
    said = items(nested(attributes, semconv.GEN_AI_COMPLETION))
    kind = attributes.get("gen_ai.request.type", attributes.get("llm.request.type"))
    if not (asked or said or kind) or semconv.GEN_AI_REQUEST_MODEL not in attributes:
        return None
    reason = next((message.get("finish_reason") for message in said if message.get("finish_reason")), None)
    return LLMCall(
        dialect="indexed",
        operation=_OPERATIONS.get(str(kind), "chat"),
        messages=_chat(asked, "user"),
        tools=_tools(attributes),
        output=_chat([message for message in said if _speaks(message)], "assistant"),
        **common(attributes, reason or attributes.get("gen_ai.response.finish_reason")),
    )


def _chat(messages: list[Json], role: str) -> list[Json]:
    return chat_format.tidied(_message(message, role) for message in messages)


def _message(message: Json, role: str) -> Json:
    kept = {key: message[key] for key in ("name", "tool_call_id", "refusal") if key in message}
    content = from_json(message.get("content"))
    # Content with pictures is written as JSON; text that merely looks like JSON is text.
    parts = content if items(content) and all("type" in part for part in items(content)) else message.get("content")
    return {"role": message.get("role") or role, **kept, "content": parts, "tool_calls": message.get("tool_calls")}


def _speaks(message: Json) -> bool:
    return any(message.get(key) for key in ("content", "tool_calls", "refusal"))


def _tools(attributes: Attributes) -> list[Json] | None:
    if schemas := objects_in(attributes, "anthropic.tools.schemas"):
        return chat_format.tools([{"name": tool.get("name"), **as_object(tool.get("schema"))} for tool in schemas])
    functions: Any = nested(attributes, "gen_ai.request.functions") or nested(attributes, "llm.request.functions")
    return chat_format.tools(
        [{**function, "parameters": from_json(function.get("parameters"))} for function in items(functions)]
    )
