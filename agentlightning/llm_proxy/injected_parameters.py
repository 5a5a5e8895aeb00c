"""Request parameters that the proxy adds to get token ids, and their removal from the response.

Training needs token ids and log probabilities; an agent gets only what it asked for. The parameters are sent only to
inference engines that are known to support them: any other server gets the agent's request unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from ..instrumentation.dialects.base import Json, as_object, items
from .model_server import Engine

_SUPPORTED: dict[tuple[str, Engine], Json] = {
    ("chat/completions", "vllm"): {"logprobs": True, "return_token_ids": True},
    ("completions", "vllm"): {"logprobs": 1, "return_token_ids": True},
    # Without top_logprobs llama.cpp returns twenty alternatives for each token, with 0 no logprobs at all.
    ("chat/completions", "llama.cpp"): {"logprobs": True, "top_logprobs": 1},
    ("completions", "llama.cpp"): {"logprobs": 1},
}
_TOKEN_IDS = ("token_ids", "prompt_token_ids")


@dataclass(frozen=True)
class InjectedParameters:
    """Parameters added to a request, and hidden in its response."""

    fields: Json = field(default_factory=dict[str, Any])

    def __bool__(self) -> bool:
        return bool(self.fields)

    def strip(self, response: Json) -> Json:
        """Remove from a response, or from a chunk of one, the fields that the agent did not ask for."""
        hidden = ("logprobs",) if "logprobs" in self.fields else ()
        token_ids = _TOKEN_IDS if "return_token_ids" in self.fields else ()
        for name in token_ids:
            response.pop(name, None)
        for choice in items(response.get("choices")):
            for name in (*hidden, *token_ids):
                choice.pop(name, None)
        return response

    def strip_event(self, event: bytes) -> bytes:
        """Do the same for an event of a stream; an event that only exists because of the parameters becomes empty."""
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
        return b"%b%b %b\n\n" % (head, mark, orjson.dumps(self.strip(chunk)))


def parameters_to_inject(path: str, engine: Engine, request: Json) -> InjectedParameters:
    """Select the parameters to add to a request to this engine."""
    supported = _SUPPORTED.get((path, engine))
    if supported is None:
        return InjectedParameters()
    fields = {name: value for name, value in supported.items() if request.get(name) is None}
    if request.get("logprobs") is not None:  # the agent has chosen its own number of alternatives
        fields.pop("top_logprobs", None)
    options = as_object(request.get("stream_options"))
    if request.get("stream") and not options.get("include_usage"):
        fields["stream_options"] = {**options, "include_usage": True}
    return InjectedParameters(fields)
