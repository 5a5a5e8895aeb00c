"""Conversion of conversations in every supported format to OpenAI's chat format.

A conversation yields the same messages regardless of which library recorded it: null fields are omitted, text parts
become one string, the arguments of tool calls are JSON text, and each tool result is a separate message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ...instrumentation.dialects import Message
from ...instrumentation.dialects.base import Part, as_object, items
from .view import Json

_FINISH_REASONS = {
    **dict.fromkeys(("end_turn", "stop_sequence", "completed"), "stop"),
    **dict.fromkeys(("max_tokens", "max_output_tokens"), "length"),
    **dict.fromkeys(("tool_use", "tool_call", "function_call"), "tool_calls"),
}


def finish_reason(value: Any) -> str | None:
    """Convert a finish reason from any API to OpenAI's name for it."""
    reason = str(value).lower()
    return None if value is None else _FINISH_REASONS.get(reason, reason)


# Conversion from variants of OpenAI's chat format


def normalize(messages: Iterable[Json]) -> list[Json]:
    """Convert messages in any variant of OpenAI's chat format to one normalized form."""
    return _join_tool_calls([_normalize(message) for message in messages])


def _normalize(message: Json) -> Json:
    kept = {key: value for key, value in message.items() if value is not None and key not in _REWRITTEN}
    result: Json = {
        "role": str(message.get("role") or "assistant"),
        "content": _content(message.get("content")),
        **kept,
    }
    if reasoning := message.get("reasoning_content") or message.get("reasoning"):
        result["reasoning_content"] = reasoning
    return _with_tool_calls(result, _tool_calls(message))


_REWRITTEN = frozenset(
    {"role", "content", "tool_calls", "function_call", "reasoning", "reasoning_content", "annotations", "finish_reason"}
)


def _with_tool_calls(message: Json, calls: list[Json]) -> Json:
    return {**message, "tool_calls": calls, "content": message["content"] or None} if calls else message


def _tool_calls(message: Json) -> list[Json]:
    calls = items(message.get("tool_calls"))
    if function := as_object(message.get("function_call")):
        calls = [*calls, {"function": function}]
    return [_tool_call(call) for call in calls]


def _tool_call(call: Json) -> Json:
    function = as_object(call.get("function") or call.get("custom")) or call
    return tool_call(call.get("id"), function.get("name"), function.get("arguments", function.get("input")))


def tool_call(id: Any, name: Any, arguments: Any) -> Json:
    """Build a tool call for an assistant message."""
    function = {"name": name, "arguments": arguments if isinstance(arguments, str) else _json_text(arguments)}
    return {**({} if id is None else {"id": id}), "type": "function", "function": function}


def _json_text(value: Any) -> str:
    # The model's original text is unknown, so use the standard library's JSON formatting. Most models use it, too.
    return json.dumps({} if value is None else value, ensure_ascii=False)


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return _join_text([_content_part(part) for part in items(content)])


def _content_part(part: Json) -> Json:
    match part.get("type"):
        case "text" | "input_text" | "output_text":
            return {"type": "text", "text": part.get("text") or ""}
        case "image_url":
            image = as_object(part.get("image_url")) or {"url": part.get("image_url")}
            return {"type": "image_url", "image_url": {key: value for key, value in image.items() if value is not None}}
        case _:
            return part


def _join_text(content: list[Json]) -> Any:
    """Join the parts into one string if all are text. Otherwise, return them unchanged. Return None if empty."""
    if all(part.get("type") == "text" for part in content):
        return "".join(str(part.get("text") or "") for part in content) if content else None
    return content


def _join_tool_calls(messages: list[Json]) -> list[Json]:
    """Merge assistant messages that contain only tool calls into the assistant message directly before them, if any."""
    joined: list[Json] = []
    for message in messages:
        previous = joined[-1] if joined else {}
        only_calls = message.get("tool_calls") and not message.get("content") and "reasoning_content" not in message
        if only_calls and previous.get("role") == message["role"] == "assistant":
            joined[-1] = _with_tool_calls(previous, [*previous.get("tool_calls", []), *message["tool_calls"]])
        else:
            joined.append(message)
    return joined


def conversation(value: Any, role: str) -> list[Json]:
    """Convert a chat message, a list of chat messages, or a string. A string becomes a message with the given role."""
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value else []
    return normalize(items(value) or ([as_object(value)] if value else []))


# Conversion from OpenTelemetry's messages, which consist of parts


def from_messages(messages: Iterable[Message]) -> list[Json]:
    """Convert messages that consist of parts. Each tool result among the parts becomes a separate message."""
    return _join_tool_calls([converted for each in messages for converted in _messages(each.role, each.parts)])


def _messages(role: str, parts: list[Part]) -> list[Json]:
    results = [_tool_message(part) for part in parts if part.get("type") == "tool_call_response"]
    rest = [part for part in parts if part.get("type") != "tool_call_response"]
    return results if results and not rest else [*results, _message(role, rest)]


def _message(role: str, parts: list[Part]) -> Json:
    calls = [
        tool_call(part.get("id"), part.get("name"), part.get("arguments"))
        for part in parts
        if part.get("type") == "tool_call"
    ]
    reasoning = [str(part["content"]) for part in parts if part.get("type") == "reasoning" and part.get("content")]
    content = [_from_part(part) for part in parts if part.get("type") not in ("tool_call", "reasoning")]
    message: Json = {"role": role, "content": _join_text(content)}
    if reasoning:
        message["reasoning_content"] = "\n".join(reasoning)
    return _with_tool_calls(message, calls)


def _tool_message(part: Part) -> Json:
    result = part.get("response", part.get("result"))
    if isinstance(result, list):
        result = _join_text([_content_part(item) for item in items(result)])
    content = result if isinstance(result, str) else _json_text(result)
    call_id = part.get("id")
    return {"role": "tool", "content": content, **({} if call_id is None else {"tool_call_id": call_id})}


def _from_part(part: Part) -> Json:
    match part.get("type"):
        case "text":
            return {"type": "text", "text": part.get("content") or ""}
        case "blob" if part.get("modality") == "image":
            url = f"data:{part.get('mime_type')};base64,{part.get('content') or ''}"
            return {"type": "image_url", "image_url": {"url": url}}
        case "uri" if part.get("modality") == "image":
            return {"type": "image_url", "image_url": {"url": part.get("uri")}}
        case _:
            return _content_part(part)


# Tools


def tools(definitions: Any) -> list[Json] | None:
    """Convert tool definitions from any API to OpenAI's chat format. Return None if there are none."""
    return [_tool(tool) for tool in items(definitions)] or None


def _tool(tool: Json) -> Json:
    function = as_object(tool.get("function")) or tool
    if tool.get("type", "function") not in ("function", "custom") or "name" not in function:
        return tool
    schema = function.get("parameters", function.get("input_schema"))
    definition = {"name": function["name"], "description": function.get("description"), "parameters": schema}
    if function.get("strict"):
        definition["strict"] = True
    return {"type": "function", "function": {key: value for key, value in definition.items() if value is not None}}
