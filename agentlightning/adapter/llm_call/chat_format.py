"""OpenAI's chat format, into which every spelling of a conversation is brought.

The same conversation gives the same messages whoever recorded it: absent and null fields are left out, text parts
become one string, tool calls carry their arguments as JSON text, a tool's answer is a message of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ...instrumentation.dialects.base import Part, as_object, items
from .view import Json

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "completed": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
}


def finish_reason(said: Any) -> str | None:
    """Why the model stopped, in OpenAI's words."""
    if said is None:
        return None
    word = str(said).lower()
    return _FINISH.get(word, word)


# From OpenAI's chat format, as it comes


def tidied(messages: Iterable[Json]) -> list[Json]:
    """Chat messages as they were sent, in the one form."""
    return _joined([_tidy(message) for message in messages])


def _tidy(message: Json) -> Json:
    kept = {key: value for key, value in message.items() if value is not None and key not in _REWRITTEN}
    tidy: Json = {"role": str(message.get("role") or "assistant"), "content": _content(message.get("content")), **kept}
    if thought := message.get("reasoning_content") or message.get("reasoning"):
        tidy["reasoning_content"] = thought
    if calls := _tool_calls(message):
        tidy["tool_calls"] = calls
        tidy["content"] = tidy["content"] or None
    return tidy


_REWRITTEN = frozenset(
    {"role", "content", "tool_calls", "function_call", "reasoning", "reasoning_content", "annotations", "finish_reason"}
)


def _tool_calls(message: Json) -> list[Json]:
    calls = items(message.get("tool_calls"))
    if function := as_object(message.get("function_call")):
        calls = [*calls, {"function": function}]
    return [_tool_call(call) for call in calls]


def _tool_call(call: Json) -> Json:
    asked = as_object(call.get("function") or call.get("custom")) or call
    return tool_call(call.get("id"), asked.get("name"), asked.get("arguments", asked.get("input")))


def tool_call(id: Any, name: Any, arguments: Any) -> Json:
    """A tool call as it stands in an assistant message."""
    function = {"name": name, "arguments": arguments if isinstance(arguments, str) else json_text(arguments)}
    return {**({} if id is None else {"id": id}), "type": "function", "function": function}


def json_text(value: Any) -> str:
    """JSON as models and the standard library write it, for arguments that are only known as an object."""
    return json.dumps({} if value is None else value, ensure_ascii=False)


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return joined_text([_content_part(part) for part in items(content)]) if items(content) else None


def _content_part(part: Json) -> Json:
    match part.get("type"):
        case "text" | "input_text" | "output_text":
            return {"type": "text", "text": part.get("text") or ""}
        case "image_url":
            return {"type": "image_url", "image_url": _image(part.get("image_url"))}
        case _:
            return part


def _image(image: Any) -> Json:
    given = as_object(image) or {"url": image}
    return {key: value for key, value in given.items() if value is not None}


def joined_text(content: list[Json]) -> Any:
    """Content parts, as one string where all are text; None where there are none."""
    if all(part.get("type") == "text" for part in content):
        return "".join(str(part.get("text") or "") for part in content) if content else None
    return content


def _joined(messages: list[Json]) -> list[Json]:
    """Tool calls that were written one message each are one turn."""
    turns: list[Json] = []
    for message in messages:
        before = turns[-1] if turns else {}
        only_calls = message.get("tool_calls") and not message.get("content") and "reasoning_content" not in message
        if only_calls and before.get("role") == message["role"] == "assistant":
            turns[-1] = {**before, "tool_calls": [*before.get("tool_calls", []), *message["tool_calls"]]}
            turns[-1]["content"] = turns[-1]["content"] or None
        else:
            turns.append(message)
    return turns


# From OpenTelemetry's messages, which are made of parts


def from_parts(messages: Iterable[tuple[str, list[Part]]]) -> list[Json]:
    """Role and parts of each message, as chat messages; a tool's answer among the parts becomes a message."""
    return _joined([turn for role, parts in messages for turn in _turns(role, parts)])


def _turns(role: str, parts: list[Part]) -> list[Json]:
    answers = [_tool_message(part) for part in parts if part.get("type") == "tool_call_response"]
    rest = [part for part in parts if part.get("type") != "tool_call_response"]
    return answers if answers and not rest else [*answers, _turn(role, rest)]


def _turn(role: str, parts: list[Part]) -> Json:
    calls = [
        tool_call(part.get("id"), part.get("name"), part.get("arguments"))
        for part in parts
        if part.get("type") == "tool_call"
    ]
    thoughts = [str(part["content"]) for part in parts if part.get("type") == "reasoning" and part.get("content")]
    said = [_said(part) for part in parts if part.get("type") not in ("tool_call", "reasoning")]
    message: Json = {"role": role, "content": joined_text(said)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
        message["content"] = message["content"] or None
    return message


def _tool_message(part: Part) -> Json:
    answer = part.get("response", part.get("result"))
    if isinstance(answer, list):
        answer = joined_text([_content_part(item) for item in items(answer)])
    content = answer if isinstance(answer, str) else json_text(answer)
    called = part.get("id")
    return {"role": "tool", "content": content, **({} if called is None else {"tool_call_id": called})}


def _said(part: Part) -> Json:
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


def tools(given: Any) -> list[Json] | None:
    """Tool definitions of any API, in OpenAI's chat form."""
    return [_tool(tool) for tool in items(given)] or None


def _tool(tool: Json) -> Json:
    function = as_object(tool.get("function")) or tool
    if tool.get("type", "function") not in ("function", "custom") or "name" not in function:
        return tool
    schema = function.get("parameters", function.get("input_schema"))
    definition = {"name": function["name"], "description": function.get("description"), "parameters": schema}
    if function.get("strict"):
        definition["strict"] = True
    return {"type": "function", "function": {key: value for key, value in definition.items() if value is not None}}
