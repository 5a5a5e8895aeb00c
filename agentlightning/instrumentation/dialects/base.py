"""Messages and their parts: the format shared by all dialects, based on OpenTelemetry's GenAI conventions."""

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
    """The message's text, or its content as JSON if it contains more than text. None if the message has no content."""
    finish_reason: str | None = None
    """The reason why the model stopped generating. Set only in responses."""


@dataclass(frozen=True)
class ApiDialect:
    """Parsers for the requests, responses and streams of one API."""

    span_name: str
    operation: str
    """Value of the attribute `gen_ai.operation.name`."""
    provider: str
    input_field: str
    """Name of the field that contains the prompt in a request body."""
    prompt: Callable[[Json], list[Message]]
    """Parses the messages in a request body."""
    answer: Callable[[Json], list[Message]]
    """Parses the messages in a response body."""
    fold: Callable[[Iterable[Json]], Json]
    """Combines the events of a complete or partial stream into the body of a non-streamed response."""


class Texts:
    """The texts of a streamed response. Pieces are joined only at the end, because there may be 100,000 of them."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, str], tuple[Json, list[str]]] = {}

    def append(self, target: Json, key: str, piece: str) -> None:
        """Add a piece to the text `target[key]`. The field contains the whole text only after `join`."""
        # The entry keeps a reference to `target`, so that no other object can get the same id.
        _, pieces = self._pieces.setdefault((id(target), key), (target, []))
        if not pieces and isinstance(start := target.get(key), str):
            pieces.append(start)
        pieces.append(piece)
        target.setdefault(key, "")

    def join(self) -> None:
        """Set each text's field to its joined pieces."""
        for (_, key), (target, pieces) in self._pieces.items():
            target[key] = "".join(pieces)


def text(content: Any) -> Part:
    """Return a text part."""
    return {"type": "text", "content": content}


def tool_call(id: Any, name: Any, arguments: Any) -> Part:
    """Return a part for a tool call. Arguments given as JSON text are parsed."""
    return {"type": "tool_call", "id": id, "name": name, "arguments": parse_json(arguments)}


def tool_response(id: Any, response: Any) -> Part:
    """Return a part for a tool's response."""
    return {"type": "tool_call_response", "id": id, "response": response}


def media(modality: str, uri: Any) -> Part:
    """Return a part for an image or other media. The data in a `data:` URI is omitted."""
    if isinstance(uri, str) and uri.startswith("data:"):
        return {"type": "blob", "modality": modality, "mime_type": uri[5:].partition(";")[0]}
    return {"type": "uri", "modality": modality, "uri": uri}


def to_json(value: Any) -> str:
    """Serialize a value that was parsed from JSON."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)  # orjson rejects lone surrogates and huge numbers, which some servers send


def parse_json(value: Any) -> Any:
    """Parse JSON text. Return any other value, and text that is not JSON, unchanged."""
    try:
        return orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        return value


def content_text(content: Any, parts: list[Part]) -> str | None:
    """Return a message's text if all parts are text, or else its content as JSON. Return None if it has no content."""
    if content is None or isinstance(content, str):
        return content
    if parts and all(part["type"] == "text" for part in parts):
        return "".join(str(part["content"]) for part in parts)
    return to_json(content)


def items(value: Any) -> list[Json]:
    """Return only the dicts in `value` if it is a list. Otherwise return an empty list."""
    if not isinstance(value, list):
        return []
    return [item for item in cast("list[Any]", value) if isinstance(item, dict)]


def as_object(value: Any) -> Json:
    """Return `value` if it is a dict, otherwise an empty dict."""
    return cast("Json", value) if isinstance(value, dict) else {}
