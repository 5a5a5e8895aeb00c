"""The user's agent: a class derived from `LitAgent`, or any function that takes a task."""

from .base import AgentResult, LitAgent
from .command import CommandAgent, command_agent
from .function import FunctionAgent, as_agent, llm_rollout, prompt_rollout, rollout

__all__ = [
    "AgentResult",
    "CommandAgent",
    "FunctionAgent",
    "LitAgent",
    "as_agent",
    "command_agent",
    "llm_rollout",
    "prompt_rollout",
    "rollout",
]
