"""RunResult: the result of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from ..types import NamedResources


class CandidateResult(BaseModel):
    """Result of all rollouts that used one version of a set of resources."""

    resources_id: str | None
    version: int | None
    rollouts: int
    """Number of completed rollouts."""
    failed: int = 0
    """Number of failed rollouts, including timed-out and lost rollouts."""
    rewarded: int = 0
    """Number of rollouts that have a reward. Rollouts without a reward are ignored, not counted as 0."""
    mean_reward: float | None = None
    standard_error: float | None = None
    """Standard error of the mean, or None if there are fewer than two rewards."""


class RunResult(BaseModel):
    """Result of a run, as returned by `Trainer.fit` and saved in `result.json`."""

    name: str
    folder: Path | None = None
    """Folder with the database, log, config, metrics and this result. None in a process that only runs runners."""
    status: Literal["finished", "stopped", "failed"] = "finished"
    best_resources: NamedResources | None = None
    """The resources chosen by the algorithm, or else the resources with the highest mean reward."""
    best_resources_id: str | None = None
    history: list[CandidateResult] = Field(default_factory=list[CandidateResult])
    """Results for all resource versions, ordered by the time at which the first rollout with each version ended."""
    mean_reward: float | None = None
    """Mean reward of all rollouts that have a reward."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Number of rollouts by status."""
    failures: dict[str, int] = Field(default_factory=dict)
    """Number of failed rollouts by reason, most frequent first."""
    seconds: float = 0.0
    report: dict[str, Any] = Field(default_factory=dict)
    """The report returned by the algorithm's `report` method, or an empty dict if the algorithm did not finish."""
    returned: Any = Field(default=None, exclude=True)
    """The algorithm's return value. Not saved in the file."""
    error: str | None = None
    """The error that ended a failed run."""

    @property
    def rewards(self) -> dict[str, float]:
        """Mean reward by resources id. If several versions have rewards, the last one in `history` is used."""
        return {
            each.resources_id: each.mean_reward
            for each in self.history
            if each.resources_id is not None and each.mean_reward is not None
        }
