"""Which ends of an attempt are nobody's fault, so that the task is tried again."""

from __future__ import annotations

from typing import Final

from ..types import RolloutConfig

LOST_RUNNER: Final = RolloutConfig(max_attempts=3, retry_condition=["unresponsive"])
"""A runner that died says nothing of the agent, unless it dies each time."""
