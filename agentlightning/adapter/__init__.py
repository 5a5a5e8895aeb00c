"""From spans to data."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Adapter, TraceAdapter
    from .llm_call import LLMCall, llm_calls
    from .messages import Conversation, TraceToMessages
    from .rewards import (
        Reward,
        find_final_reward,
        find_reward_spans,
        get_message_value,
        get_object_value,
        get_reward_value,
        get_rewards_from_span,
        is_reward_span,
    )
    from .triplets import TracerTraceToTriplet

_HOME = {
    "Adapter": "base",
    "Conversation": "messages",
    "LLMCall": "llm_call",
    "Reward": "rewards",
    "TraceAdapter": "base",
    "TraceToMessages": "messages",
    "TracerTraceToTriplet": "triplets",
    "find_final_reward": "rewards",
    "find_reward_spans": "rewards",
    "get_message_value": "rewards",
    "get_object_value": "rewards",
    "get_reward_value": "rewards",
    "get_rewards_from_span": "rewards",
    "is_reward_span": "rewards",
    "llm_calls": "llm_call",
}

__all__ = [
    "Adapter",
    "Conversation",
    "LLMCall",
    "Reward",
    "TraceAdapter",
    "TraceToMessages",
    "TracerTraceToTriplet",
    "find_final_reward",
    "find_reward_spans",
    "get_message_value",
    "get_object_value",
    "get_reward_value",
    "get_rewards_from_span",
    "is_reward_span",
    "llm_calls",
]


def __getattr__(name: str) -> Any:
    if home := _HOME.get(name):
        return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
