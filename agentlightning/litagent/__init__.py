"""The user's agent: a class derived from `LitAgent`, or any function that takes a task."""

from .base import AgentResult, LitAgent
from .function import FunctionAgent, as_agent, llm_rollout, prompt_rollout, rollout

__all__ = ["AgentResult", "FunctionAgent", "LitAgent", "as_agent", "llm_rollout", "prompt_rollout", "rollout"]
