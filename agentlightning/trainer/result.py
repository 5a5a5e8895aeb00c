"""RunResult, the result of a run, and CandidateResult, the result of one version of a set of resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from ..types import NamedResources


class CandidateResult(BaseModel):
    """Combined result of all rollouts that used one version of a set of resources."""

    resources_id: str | None
    version: int | None
    rollouts: int
    """Number of completed rollouts."""
    failed: int = 0
    """Number of failed rollouts, including timed-out and lost rollouts."""
    rewarded: int = 0
    """Number of rollouts that have a reward. Other rollouts are not included in `mean_reward`."""
    mean_reward: float | None = None
    standard_error: float | None = None
    """Standard error of `mean_reward`, or None if there are fewer than two rewards."""


class RunResult(BaseModel):
    """Result of a run, as returned by `Trainer.fit` and saved in `result.json`."""

    name: str
    folder: Path | None = None
    """The run's folder, or None in a process that executes only runners.

    The folder contains the log, the configuration, the metrics and this result, and by default also the database.
    """
    status: Literal["finished", "stopped", "failed"] = "finished"
    best_resources: NamedResources | None = None
    """The resources chosen by the algorithm, or, if it did not choose any, those with the highest mean reward."""
    best_resources_id: str | None = None
    history: list[CandidateResult] = Field(default_factory=list[CandidateResult])
    """One result for each version of the resources, in the order in which their first rollouts ended."""
    mean_reward: float | None = None
    """Mean reward of all rollouts that have a reward, or None if there are none."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Number of rollouts with each status."""
    failures: dict[str, int] = Field(default_factory=dict)
    """Number of failed rollouts for each reason, with the most frequent reason first."""
    seconds: float = 0.0
    report: dict[str, Any] = Field(default_factory=dict)
    """The report returned by the algorithm's `report` method, or an empty dict if the algorithm did not finish."""
    returned: Any = Field(default=None, exclude=True)
    """The algorithm's return value. It is not saved in `result.json`."""
    error: str | None = None
    """The error that caused the run to fail, or None if the run did not fail."""

    @property
    def rewards(self) -> dict[str, float]:
        """Mean reward for each resources id. If several versions have one, the last of them in `history` is used."""
        return {
            each.resources_id: each.mean_reward
            for each in self.history
            if each.resources_id is not None and each.mean_reward is not None
        }
