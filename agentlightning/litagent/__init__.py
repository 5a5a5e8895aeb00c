"""Agents: subclasses of `LitAgent`, functions that take a task, and programs."""

from .base import AgentResult as AgentResult, LitAgent as LitAgent
from .command import CommandAgent as CommandAgent, command_agent as command_agent
from .function import (
    FunctionAgent as FunctionAgent,
    as_agent as as_agent,
    llm_rollout as llm_rollout,
    prompt_rollout as prompt_rollout,
    rollout as rollout,
)
