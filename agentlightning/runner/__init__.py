"""One rollout after another: claim, trace, run, report."""

from .agent_runner import LitAgentRunner
from .base import Runner, StopEvent

__all__ = ["LitAgentRunner", "Runner", "StopEvent"]
