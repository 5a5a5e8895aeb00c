"""What the proxy asks of a server beyond what the agent asked, and takes out of the answer again.

Token ids and log probabilities are what training needs; agents get what they asked for and nothing else. A server is
only asked for what it is known to give: one that is not known gets the agent's request as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from ..instrumentation.dialects.base import Json, as_object, items
from .model_server import Program

_ASKED: dict[tuple[str, Program], Json] = {
    ("chat/completions", "vllm"): {"logprobs": True, "return_token_ids": True},
    ("completions", "vllm"): {"logprobs": 1, "return_token_ids": True},
    # Without top_logprobs llama.cpp gives twenty alternatives for each token, with 0 no logprobs at all.
    ("chat/completions", "llama.cpp"): {"logprobs": True, "top_logprobs": 1},
    ("completions", "llama.cpp"): {"logprobs": 1},
}
_TOKEN_IDS = ("token_ids", "prompt_token_ids")


@dataclass(frozen=True)
class Extras:
    """What was asked besides: to be added to a request, and hidden in its answer."""

    fields: Json = field(default_factory=dict[str, Any])

    def __bool__(self) -> bool:
        return bool(self.fields)

    def hide(self, answer: Json) -> Json:
        """A whole answer, or a chunk of one, as the agent would have got it."""
        if "return_token_ids" in self.fields:
            for name in _TOKEN_IDS:
                answer.pop(name, None)
        for choice in items(answer.get("choices")):
            self._hide_in_choice(choice)
        return answer

    def _hide_in_choice(self, choice: Json) -> None:
        if "logprobs" in self.fields:
            choice.pop("logprobs", None)
        if "return_token_ids" in self.fields:
            for name in _TOKEN_IDS:
                choice.pop(name, None)

    def hide_in_event(self, event: bytes) -> bytes:
        """An event of a stream as the agent would have got it; empty where it would not have got it."""
        head, mark, data = event.partition(b"data:")
        try:
            chunk = as_object(orjson.loads(data))
        except orjson.JSONDecodeError:
            return event
        if not chunk:
            return event
        if "stream_options" in self.fields and "usage" in chunk:
            if not chunk.get("choices"):
                return b""
            del chunk["usage"]
        return b"%b%b %b\n\n" % (head, mark, orjson.dumps(self.hide(chunk)))


def extras(path: str, program: Program, asked: Json) -> Extras:
    """What to ask besides, of a server that is this program."""
    wanted = _ASKED.get((path, program))
    if wanted is None:
        return Extras()
    fields = {name: value for name, value in wanted.items() if asked.get(name) is None}
    if asked.get("logprobs") is not None:  # how the agent wants its own is its own business
        fields.pop("top_logprobs", None)
    options = as_object(asked.get("stream_options"))
    if asked.get("stream") and not options.get("include_usage"):
        fields["stream_options"] = {**options, "include_usage": True}
    return Extras(fields)
