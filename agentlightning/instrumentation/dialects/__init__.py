"""How the model APIs write a call: one file for each dialect, all read into the same `Message`s."""

from __future__ import annotations

from . import anthropic, chat, completions, embeddings, responses
from .base import Dialect, Json, Message

__all__ = ["Dialect", "Message", "dialect_of"]

_BY_LAST_WORD = {
    "completions": (chat.DIALECT, completions.DIALECT),
    "messages": (anthropic.DIALECT,),
    "responses": (responses.DIALECT,),
    "embeddings": (embeddings.DIALECT,),
}


def may_be_call(path: str) -> bool:
    """Whether a request to this URL path could be to a model; cheap, asked for every request."""
    return _last_word(path) in _BY_LAST_WORD


def dialect_of(path: str, body: Json) -> Dialect | None:
    """The dialect of a request with this path and JSON body, where it is a call to a model."""
    candidates = _BY_LAST_WORD.get(_last_word(path), ())
    return next((dialect for dialect in candidates if dialect.input_field in body), None)


def _last_word(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
