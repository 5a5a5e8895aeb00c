"""The wire: raw request and response bodies, as the wire tap and the proxy record them."""

from __future__ import annotations

from typing import Any

from ... import semconv
from ...instrumentation.dialects import (
    Dialect,
    Message,
    anthropic,
    chat,
    completions,
    dialect_of,
    embeddings,
    responses,
)
from ...instrumentation.dialects.base import as_object, items
from ...types import Span
from . import chat_format, tokens
from .attributes import Attributes, object_in, usage_of
from .view import Json, LLMCall

_BY_NAME = {
    module.DIALECT.span_name: module.DIALECT for module in (anthropic, chat, completions, embeddings, responses)
}
_NOT_PARAMETERS = frozenset(
    {"model", "messages", "input", "prompt", "instructions", "system", "tools", "stream", "stream_options", "functions"}
)


def read(span: Span) -> LLMCall | None:
    """The call, where the span holds its bodies."""
    if semconv.REQUEST not in span.attributes and semconv.RESPONSE not in span.attributes:
        return None
    asked, answered = object_in(span.attributes, semconv.REQUEST), object_in(span.attributes, semconv.RESPONSE)
    dialect = dialect_of(str(span.attributes.get("url.path", "")), asked) or _BY_NAME.get(span.name, chat.DIALECT)
    said = dialect.answer(answered)
    return LLMCall(
        dialect="wire",
        operation=dialect.operation,
        model=answered.get("model") or asked.get("model"),
        messages=_messages(dialect, asked),
        tools=chat_format.tools(asked.get("tools")),
        output=_output(dialect, answered, said),
        finish_reason=chat_format.finish_reason(said[0].finish_reason) if said else None,
        usage=usage_of(as_object(answered.get("usage"))),
        response_id=answered.get("id"),
        parameters={key: value for key, value in asked.items() if key not in _NOT_PARAMETERS and value is not None},
        **_tokens(span.attributes, answered),
    )


def _messages(dialect: Dialect, asked: Json) -> list[Json]:
    if dialect is chat.DIALECT:
        return chat_format.tidied(items(asked.get("messages")))
    return _from(dialect.prompt(_with_pictures(asked)))


def _output(dialect: Dialect, answered: Json, said: list[Message]) -> list[Json]:
    if dialect is not chat.DIALECT:
        return _from(said)
    choices = (as_object(choice.get("message")) for choice in items(answered.get("choices")))
    return [message for choice in choices for message in chat_format.tidied([{"role": "assistant", **choice}])]


def _from(messages: list[Message]) -> list[Json]:
    return chat_format.from_parts((message.role, message.parts) for message in messages)


def _tokens(attributes: Attributes, answered: Json) -> tokens.Tokens:
    """Those in the answer, and what was noted of the call besides: some servers tell prompts' ids only when asked."""
    given, noted = tokens.of_response(answered), tokens.of_span(attributes)
    return tokens.Tokens(
        prompt_token_ids=given["prompt_token_ids"] or noted["prompt_token_ids"],
        token_ids=given["token_ids"] or noted["token_ids"],
        logprobs=given["logprobs"] or noted["logprobs"],
    )


def _with_pictures(asked: Json) -> Json:
    """The request with its pictures as chat completions have them, whole: the dialects leave their bytes out."""
    return {key: _pictured(value) if key in ("messages", "input") else value for key, value in asked.items()}


def _pictured(value: Any) -> Any:
    match value:
        case [*several]:
            return [_pictured(one) for one in several]
        case {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}:
            return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"content": [*_]}:
            return {key: _pictured(part) if key == "content" else part for key, part in as_object(value).items()}
        case _:
            return value
