"""What all dialects are read into: messages made of parts, as OpenTelemetry's GenAI conventions write them."""

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
    """One turn of a conversation."""

    role: str
    parts: list[Part] = field(default_factory=list[Part])
    content: str | None = None
    """The text alone; where there is more than text, the content's own JSON."""
    finish_reason: str | None = None
    """Why the model stopped, on what it answered."""

    @property
    def tool_calls(self) -> list[Part]:
        """The parts that ask for a tool."""
        return [part for part in self.parts if part["type"] == "tool_call"]

    def as_opentelemetry(self) -> Json:
        """As it stands in `gen_ai.input.messages` and `gen_ai.output.messages`."""
        message: Json = {"role": self.role, "parts": self.parts}
        if self.finish_reason is not None:
            message["finish_reason"] = self.finish_reason
        return message


@dataclass(frozen=True)
class Dialect:
    """How one API writes requests, answers and streams."""

    span_name: str
    operation: str
    """`gen_ai.operation.name`"""
    provider: str
    input_field: str
    """The field of a request body that holds what is asked."""
    prompt: Callable[[Json], list[Message]]
    """What a request body asks."""
    answer: Callable[[Json], list[Message]]
    """What a response body answers."""
    fold: Callable[[Iterable[Json]], Json]
    """The response body that the events of a stream amount to, be they all or only the first few."""


def text(content: Any) -> Part:
    """A part that is plain text."""
    return {"type": "text", "content": content}


def tool_call(id: Any, name: Any, arguments: Any) -> Part:
    """A part that asks for a tool; arguments given as JSON text are read."""
    return {"type": "tool_call", "id": id, "name": name, "arguments": _read(arguments)}


def tool_response(id: Any, response: Any) -> Part:
    """A part that says what a tool gave."""
    return {"type": "tool_call_response", "id": id, "response": response}


def media(modality: str, uri: Any) -> Part:
    """A part that is a picture or the like; bytes inlined in the request are not repeated here."""
    if isinstance(uri, str) and uri.startswith("data:"):
        return {"type": "blob", "modality": modality, "mime_type": uri[5:].partition(";")[0]}
    return {"type": "uri", "modality": modality, "uri": uri}


def to_json(value: Any) -> str:
    """JSON text of what came from JSON, whatever it holds."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)  # a lone surrogate or a huge number, which some servers do send


def content_text(content: Any, parts: list[Part]) -> str | None:
    """The text alone, where all parts are text; else the content's own JSON."""
    if content is None or isinstance(content, str):
        return content
    if parts and all(part["type"] == "text" for part in parts):
        return "".join(str(part["content"]) for part in parts)
    return to_json(content)


def items(value: Any) -> list[Json]:
    """The objects in what should be a list of objects, and often is not."""
    if not isinstance(value, list):
        return []
    return [item for item in cast("list[Any]", value) if isinstance(item, dict)]


def as_object(value: Any) -> Json:
    """The object that `value` should be; empty where it is something else."""
    return cast("Json", value) if isinstance(value, dict) else {}


def texts(value: Any) -> list[str]:
    """One text, or each of several; what is neither, like token ids, as its JSON."""
    several = cast("list[Any]", value) if isinstance(value, list) else [value]
    if all(isinstance(one, str) for one in several):
        return several
    return [to_json(value)]


def _read(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
