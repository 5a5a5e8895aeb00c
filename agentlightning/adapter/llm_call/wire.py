"""Reader for raw request and response bodies, which the wire tap and the proxy record."""

from __future__ import annotations

from typing import Any

from ... import semconv
from ...instrumentation.dialects import ApiDialect, Message, anthropic, dialect_of, openai
from ...instrumentation.dialects.base import as_object, items
from ...types import Span
from . import chat_format
from .attributes import object_in, parameters, tokens_of_response, tokens_of_span, usage
from .view import Json, LLMCall

_DIALECTS = (anthropic.MESSAGES, openai.CHAT, openai.COMPLETIONS, openai.EMBEDDINGS, openai.RESPONSES)
_BY_NAME = {dialect.span_name: dialect for dialect in _DIALECTS}


def read(span: Span) -> LLMCall | None:
    """Parse a span that has the request or response body of an LLM call. Return None for any other span."""
    attributes = span.attributes
    if semconv.REQUEST not in attributes and semconv.RESPONSE not in attributes:
        return None
    request, response = object_in(attributes, semconv.REQUEST), object_in(attributes, semconv.RESPONSE)
    dialect = dialect_of(str(attributes.get("url.path", "")), request) or _BY_NAME.get(span.name, openai.CHAT)
    answer = dialect.answer(response)
    # Some servers return a prompt's token ids only in response to a separate request. Those ids are recorded in the
    # span's attributes, because this call's response body does not contain them.
    recorded = tokens_of_span(attributes)
    return LLMCall(
        dialect="wire",
        operation=dialect.operation,
        model=response.get("model") or request.get("model"),
        messages=_messages(dialect, request),
        tools=chat_format.tools(request.get("tools")),
        output=_output(dialect, response, answer),
        finish_reason=chat_format.finish_reason(answer[0].finish_reason) if answer else None,
        usage=usage(response.get("usage")),
        response_id=response.get("id"),
        parameters=parameters(request),
        **{name: value or recorded[name] for name, value in tokens_of_response(response).items()},
    )


def _messages(dialect: ApiDialect, request: Json) -> list[Json]:
    if dialect is openai.CHAT:
        return chat_format.normalize(items(request.get("messages")))
    # The parsers of the other dialects omit the bytes of images in their own formats. Convert such images to the chat
    # completions format first, because the parsers keep parts in that format unchanged.
    request = {
        key: _with_chat_pictures(value) if key in ("messages", "input") else value for key, value in request.items()
    }
    return chat_format.from_messages(dialect.prompt(request))


def _output(dialect: ApiDialect, response: Json, answer: list[Message]) -> list[Json]:
    if dialect is not openai.CHAT:
        return chat_format.from_messages(answer)
    choices = (as_object(choice.get("message")) for choice in items(response.get("choices")))
    return [message for choice in choices for message in chat_format.normalize([{"role": "assistant", **choice}])]


def _with_chat_pictures(value: Any) -> Any:
    match value:
        case [*entries]:
            return [_with_chat_pictures(entry) for entry in entries]
        case {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}:
            return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"content": [*content]}:
            return {**as_object(value), "content": _with_chat_pictures(content)}
        case _:
            return value
