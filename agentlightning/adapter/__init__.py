"""Adapters: conversion of recorded spans to the data that an algorithm learns from."""

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
