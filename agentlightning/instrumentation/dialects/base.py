"""Messages and parts, the common form of all dialects, as in OpenTelemetry's GenAI conventions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import orjson

Json: TypeAlias = dict[str, Any]
Part: TypeAlias = dict[str, Any]


@dataclass
class Message:
    """One message of a conversation."""

    role: str
    parts: list[Part] = field(default_factory=list[Part])
    content: str | None = None
    """The text; if there is more than text, the content as JSON."""
    finish_reason: str | None = None
    """The reason why the model stopped, on its answers."""


@dataclass(frozen=True)
class ApiDialect:
    """One API's form of requests, responses and streams."""

    span_name: str
    operation: str
    """`gen_ai.operation.name`"""
    provider: str
    input_field: str
    """The field of a request body that has the prompt."""
    prompt: Callable[[Json], list[Message]]
    """Parses the messages of a request body."""
    answer: Callable[[Json], list[Message]]
    """Parses the messages of a response body."""
    fold: Callable[[Iterable[Json]], Json]
    """Combines the events of a stream, or the first of them, into the body of a response without streaming."""


def text(content: Any) -> Part:
    """Return a text part."""
    return {"type": "text", "content": content}


def tool_call(id: Any, name: Any, arguments: Any) -> Part:
    """Return a tool call part; parse arguments that are JSON text."""
    return {"type": "tool_call", "id": id, "name": name, "arguments": parse_json(arguments)}


def tool_response(id: Any, response: Any) -> Part:
    """Return a part with the response of a tool."""
    return {"type": "tool_call_response", "id": id, "response": response}


def media(modality: str, uri: Any) -> Part:
    """Return a part for an image or the like; the bytes of a data URI are left out."""
    if isinstance(uri, str) and uri.startswith("data:"):
        return {"type": "blob", "modality": modality, "mime_type": uri[5:].partition(";")[0]}
    return {"type": "uri", "modality": modality, "uri": uri}


def to_json(value: Any) -> str:
    """Serialize a value that came from JSON, whatever it contains."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)  # a lone surrogate or a huge number, which some servers send


def parse_json(value: Any) -> Any:
    """Parse JSON text; return a value that is not JSON text unchanged."""
    try:
        return orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        return value


def content_text(content: Any, parts: list[Part]) -> str | None:
    """Return the text if all parts are text; otherwise the content as JSON."""
    if content is None or isinstance(content, str):
        return content
    if parts and all(part["type"] == "text" for part in parts):
        return "".join(str(part["content"]) for part in parts)
    return to_json(content)


def items(value: Any) -> list[Json]:
    """Return the objects in a value that should be a list of objects, but often is not."""
    if not isinstance(value, list):
        return []
    return [item for item in cast("list[Any]", value) if isinstance(item, dict)]


def as_object(value: Any) -> Json:
    """Return a value that should be an object; an empty object if it is something else."""
    return cast("Json", value) if isinstance(value, dict) else {}
