"""RunResult: the result of a run, as returned and as saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from ..types import NamedResources


class CandidateResult(BaseModel):
    """Result of all rollouts with one version of some resources."""

    resources_id: str | None
    version: int | None
    rollouts: int
    """Completed ones."""
    failed: int = 0
    """Including timed-out and lost ones."""
    rewarded: int = 0
    """Rollouts with a reward. The others are not counted as 0."""
    mean_reward: float | None = None
    standard_error: float | None = None
    """Of the mean; None with fewer than two rewards."""


class RunResult(BaseModel):
    """Result of a run, as returned by `Trainer.fit` and saved in `result.json`."""

    name: str
    folder: Path | None = None
    """Contains database, log, config, metrics and this result. None for a process with runners only."""
    status: Literal["finished", "stopped", "failed"] = "finished"
    best_resources: NamedResources | None = None
    """The algorithm's choice, or else the resources with the highest mean reward."""
    best_resources_id: str | None = None
    history: list[CandidateResult] = Field(default_factory=list[CandidateResult])
    """In the order in which their first rollouts ended."""
    mean_reward: float | None = None
    """Over all rollouts with a reward."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Rollouts by status."""
    failures: dict[str, int] = Field(default_factory=dict)
    """Failed rollouts by reason, the most frequent first."""
    seconds: float = 0.0
    report: dict[str, Any] = Field(default_factory=dict)
    """The algorithm's report."""
    returned: Any = Field(default=None, exclude=True)
    """The algorithm's return value; not saved in the file."""
    error: str | None = None
    """The error that ended a failed run."""

    @property
    def rewards(self) -> dict[str, float]:
        """Mean reward by resources id; the latest version of each."""
        return {
            each.resources_id: each.mean_reward
            for each in self.history
            if each.resources_id is not None and each.mean_reward is not None
        }
