"""Adapters, which convert recorded spans into the data that an algorithm learns from."""

from .llm_call import LLMCall as LLMCall, llm_calls as llm_calls
from .messages import (
    Adapter as Adapter,
    Conversation as Conversation,
    TraceAdapter as TraceAdapter,
    TraceToMessages as TraceToMessages,
)
from .rewards import (
    Reward as Reward,
    find_final_reward as find_final_reward,
    find_reward_spans as find_reward_spans,
    get_message_value as get_message_value,
    get_object_value as get_object_value,
    get_reward_value as get_reward_value,
    get_rewards_from_span as get_rewards_from_span,
    is_reward_span as is_reward_span,
)
from .triplets import TracerTraceToTriplet as TracerTraceToTriplet
