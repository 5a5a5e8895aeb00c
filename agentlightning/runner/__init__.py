"""Runners claim rollouts, run the agent under a tracer, and report the outcomes to the store."""

from .agent_runner import LitAgentRunner, Runner
from .claim_loop import StopEvent

__all__ = ["LitAgentRunner", "Runner", "StopEvent"]
