"""Runners: claim rollouts, run the agent under a tracer, and report the outcomes."""

from .agent_runner import LitAgentRunner
from .base import Runner, StopEvent

__all__ = ["LitAgentRunner", "Runner", "StopEvent"]
