"""Dialects: parsers for the APIs of model providers, with one file per provider. All of them return `Message`s."""

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
    """Return True if a request to this URL path may be a call to a model. A cheap test that runs for every request."""
    return _last_segment(path) in _BY_LAST_SEGMENT


def dialect_of(path: str, body: Json) -> ApiDialect | None:
    """Return the dialect of a request with this path and JSON body, or None if it is not a call to a model."""
    candidates = _BY_LAST_SEGMENT.get(_last_segment(path), ())
    return next((dialect for dialect in candidates if dialect.input_field in body), None)


def _last_segment(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
