"""Dialects: parsers for model APIs, with one file per provider. All of them convert messages to `Message` objects."""

from __future__ import annotations

from . import anthropic, openai
from .base import ApiDialect, Json, Message

__all__ = ["ApiDialect", "Message", "dialect_of"]

_BY_LAST_SEGMENT = {
    "completions": (openai.CHAT, openai.COMPLETIONS),
    "messages": (anthropic.MESSAGES,),
    "responses": (openai.RESPONSES,),
    "embeddings": (openai.EMBEDDINGS,),
}


def may_be_call(path: str) -> bool:
    """Return True if a POST request to this URL path may be a call to a model.

    This test is fast, because it runs for POST requests to all servers, not only to model servers.
    """
    return _last_segment(path) in _BY_LAST_SEGMENT


def dialect_of(path: str, body: Json) -> ApiDialect | None:
    """Return the dialect of a request with this URL path and JSON body, or None if it is not a call to a model."""
    candidates = _BY_LAST_SEGMENT.get(_last_segment(path), ())
    return next((dialect for dialect in candidates if dialect.input_field in body), None)


def _last_segment(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
