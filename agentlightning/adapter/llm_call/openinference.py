"""Reader for OpenInference: `llm.input_messages.N.message.*`, and sometimes a raw SDK response in `output.value`."""

from __future__ import annotations

from typing import Any

from ...instrumentation.dialects.base import as_object, items
from ...types import Span
from . import chat_format
from .attributes import Attributes, first_of, from_json, nested, object_in, parameters, tokens_of_response, usage
from .view import Json, LLMCall

_EMBEDDING = "EMBEDDING"


def read(span: Span) -> LLMCall | None:
    """Parse an OpenInference span of an LLM call. Return None for any other span."""
    attributes = span.attributes
    kind = str(attributes.get("openinference.span.kind", "")).upper()
    if kind not in ("LLM", _EMBEDDING):
        return None
    response = object_in(attributes, "output.value")
    choice = first_of(response.get("choices"))
    finish = attributes.get("llm.finish_reason") or choice.get("finish_reason") or _responses_finish(response)
    output = _with_refusals(_messages(attributes, "llm.output_messages"), items(response.get("choices")))
    return LLMCall(
        dialect="openinference",
        operation="embeddings" if kind == _EMBEDDING else "chat",
        model=attributes.get("llm.response.model_name") or attributes.get("llm.model_name"),
        messages=_messages(attributes, "llm.input_messages") or _prompts(attributes),
        tools=_tools(attributes),
        output=output,
        finish_reason=chat_format.finish_reason(finish) if output else None,
        usage=usage(nested(attributes, "llm.token_count")),
        response_id=_response_id(response),
        parameters=parameters(object_in(attributes, "llm.invocation_parameters")),
        **tokens_of_response(response),
    )


def _messages(attributes: Attributes, prefix: str) -> list[Json]:
    numbered = items(nested(attributes, prefix))
    return chat_format.normalize(_message(as_object(entry.get("message"))) for entry in numbered)


def _with_refusals(output: list[Json], choices: list[Json]) -> list[Json]:
    """Add the refusals from the raw response's choices to the output messages, which do not contain any."""
    refusals = [as_object(choice.get("message")).get("refusal") for choice in choices]
    if len(refusals) != len(output):
        return output
    return [
        {**message, "refusal": refusal} if refusal else message
        for message, refusal in zip(output, refusals, strict=True)
    ]


def _message(message: Json) -> Json:
    calls = [as_object(call.get("tool_call")) for call in items(message.get("tool_calls"))]
    parts = [_part(as_object(part.get("message_content"))) for part in items(message.get("contents"))]
    content = [part for part in parts if part]
    kept = {key: message[key] for key in ("role", "name", "tool_call_id") if key in message}
    return {**kept, "content": message.get("content", content or None), "tool_calls": calls or None}


def _part(part: Json) -> Json | None:
    match part.get("type"):
        case "text":
            return {"type": "text", "text": part.get("text")}
        case "image":
            image = as_object(as_object(part.get("image")).get("image"))
            return {"type": "image_url", "image_url": {"url": image.get("url")}}
        case "tool_use":  # OpenInference also records it in the message's `tool_calls`
            return None
        case _:
            return part


def _prompts(attributes: Attributes) -> list[Json]:
    """Return the prompts of a legacy text completion as user messages."""
    prompts = items(nested(attributes, "llm.prompts"))
    return [{"role": "user", "content": as_object(entry.get("prompt")).get("text")} for entry in prompts]


def _tools(attributes: Attributes) -> list[Json] | None:
    entries = items(nested(attributes, "llm.tools"))
    schemas: list[Any] = [from_json(as_object(entry.get("tool")).get("json_schema")) for entry in entries]
    return chat_format.tools(schemas)


def _responses_finish(response: Json) -> str | None:
    if response.get("object") != "response":
        return None
    has_tool_calls = any(item.get("type") == "function_call" for item in items(response.get("output")))
    reason = as_object(response.get("incomplete_details")).get("reason")
    return "tool_calls" if has_tool_calls else reason or response.get("status")


def _response_id(response: Json) -> str | None:
    match response:
        case {"choices": _} | {"content": _} | {"output": _}:
            found = response.get("id")
        case {"generations": [[{"message": {"kwargs": {"response_metadata": {"id": str(found)}}}}, *_], *_]}:
            pass  # LangChain's serialized form of a response
        case _:  # a framework's output may contain an id that is not a response id
            found = None
    return str(found) if found else None
