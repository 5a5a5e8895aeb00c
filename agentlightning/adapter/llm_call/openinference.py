"""OpenInference: `llm.input_messages.N.message.*`, with the raw answer in `output.value` where the SDK's is known."""

from __future__ import annotations

from typing import Any

from ...instrumentation.dialects.base import as_object, items
from ...types import Span
from . import chat_format, tokens
from .attributes import Attributes, from_json, nested, object_in, usage
from .view import Json, LLMCall

_KIND = "openinference.span.kind"
_EMBEDDING = "EMBEDDING"


def read(span: Span) -> LLMCall | None:
    """The call, where the span is one of OpenInference's for a model."""
    attributes = span.attributes
    kind = str(attributes.get(_KIND, "")).upper()
    if kind not in ("LLM", _EMBEDDING):
        return None
    answered = object_in(attributes, "output.value")
    choice = tokens.first_of(answered.get("choices"))
    finish = attributes.get("llm.finish_reason") or choice.get("finish_reason") or _of_responses(answered)
    said = _with_refusals(_messages(attributes, "llm.output_messages"), items(answered.get("choices")))
    return LLMCall(
        dialect="openinference",
        operation="embeddings" if kind == _EMBEDDING else "chat",
        model=attributes.get("llm.response.model_name") or attributes.get("llm.model_name"),
        messages=_messages(attributes, "llm.input_messages") or _prompts(attributes),
        tools=_tools(attributes),
        output=said,
        finish_reason=chat_format.finish_reason(finish) if said else None,
        usage=usage(
            attributes.get("llm.token_count.prompt"),
            attributes.get("llm.token_count.completion"),
            attributes.get("llm.token_count.total"),
        ),
        response_id=_id(answered),
        parameters=_parameters(attributes),
        **tokens.of_response(answered),
    )


def _messages(attributes: Attributes, prefix: str) -> list[Json]:
    numbered = items(nested(attributes, prefix))
    return chat_format.tidied(_message(as_object(entry.get("message"))) for entry in numbered)


def _with_refusals(said: list[Json], choices: list[Json]) -> list[Json]:
    """What was said, with the refusals that only the raw answer has."""
    refusals = [as_object(choice.get("message")).get("refusal") for choice in choices]
    if len(refusals) != len(said):
        return said
    return [{**one, "refusal": refusal} if refusal else one for one, refusal in zip(said, refusals, strict=True)]


def _message(message: Json) -> Json:
    calls = [_tool_call(as_object(call.get("tool_call"))) for call in items(message.get("tool_calls"))]
    parts = [_part(as_object(part.get("message_content"))) for part in items(message.get("contents"))]
    said = [part for part in parts if part]
    kept = {key: message[key] for key in ("role", "name", "tool_call_id") if key in message}
    return {**kept, "content": message.get("content", said or None), "tool_calls": calls or None}


def _tool_call(call: Json) -> Json:
    function = as_object(call.get("function"))
    return chat_format.tool_call(call.get("id"), function.get("name"), function.get("arguments"))


def _part(part: Json) -> Json | None:
    match part.get("type"):
        case "text":
            return {"type": "text", "text": part.get("text")}
        case "image":
            image = as_object(as_object(part.get("image")).get("image"))
            return {"type": "image_url", "image_url": {"url": image.get("url")}}
        case "tool_use":  # also among the message's tool calls
            return None
        case _:
            return part


def _prompts(attributes: Attributes) -> list[Json]:
    """Of an older text completion, whose prompt is no message."""
    prompts = items(nested(attributes, "llm.prompts"))
    return [{"role": "user", "content": as_object(entry.get("prompt")).get("text")} for entry in prompts]


def _tools(attributes: Attributes) -> list[Json] | None:
    entries = items(nested(attributes, "llm.tools"))
    schemas: list[Any] = [from_json(as_object(entry.get("tool")).get("json_schema")) for entry in entries]
    return chat_format.tools(schemas)


def _of_responses(answered: Json) -> str | None:
    if answered.get("object") != "response":
        return None
    asks = any(item.get("type") == "function_call" for item in items(answered.get("output")))
    why = as_object(answered.get("incomplete_details")).get("reason")
    return "tool_calls" if asks else why or answered.get("status")


def _id(answered: Json) -> str | None:
    # A model's own answer has an id beside what it says; a framework's output may have some other thing's.
    own = any(key in answered for key in ("choices", "content", "output"))
    found = answered.get("id") if own else _langchains(answered)
    return str(found) if found else None


def _langchains(answered: Json) -> Any:
    """The model's own id in what LangChain makes of an answer."""
    match answered.get("generations"):
        case [[{"message": {"kwargs": {"response_metadata": {"id": str(given)}}}}, *_], *_]:
            return given
        case _:
            return None


def _parameters(attributes: Attributes) -> Json:
    given = object_in(attributes, "llm.invocation_parameters")
    return {key: value for key, value in given.items() if key not in ("model", "stream", "stream_options", "tools")}
