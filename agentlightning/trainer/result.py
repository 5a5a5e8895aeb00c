"""RunResult: what came of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from ..types import NamedResources


class Tried(BaseModel):
    """What came of all rollouts with one version of some resources."""

    resources_id: str | None
    version: int | None
    rollouts: int
    """Those that have ended."""
    failed: int = 0
    """Timed-out and lost ones included."""
    rewarded: int = 0
    """Those with a reward; the others count neither as 0 nor as anything else."""
    mean_reward: float | None = None
    standard_error: float | None = None
    """Of the mean; None with fewer than two rewards."""


class RunResult(BaseModel):
    """What came of a run, as `Trainer.fit` returns it and as `result.json` keeps it."""

    name: str
    folder: Path | None = None
    """Database, log, config, metrics and this result. None where only runners ran."""
    status: Literal["finished", "stopped", "failed"] = "finished"
    best_resources: NamedResources | None = None
    """The algorithm's choice; where it makes none, the resources with the highest mean reward."""
    best_resources_id: str | None = None
    history: list[Tried] = Field(default_factory=list[Tried])
    """In the order in which their first rollouts ended."""
    mean_reward: float | None = None
    """Over all rollouts that have one."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Rollouts by status."""
    failures: dict[str, int] = Field(default_factory=dict)
    """Failed rollouts by reason, the most frequent first."""
    seconds: float = 0.0
    report: dict[str, Any] = Field(default_factory=dict)
    """What the algorithm says it found."""
    returned: Any = Field(default=None, exclude=True)
    """What the algorithm returned; not kept in the file."""
    error: str | None = None
    """What ended it, where it has failed."""

    @property
    def rewards(self) -> dict[str, float]:
        """Mean reward by resources id, of those that have one; the latest version of each."""
        return {tried.resources_id: tried.mean_reward for tried in self.history if _rewarded(tried)}  # pyright: ignore[reportReturnType]


def _rewarded(tried: Tried) -> bool:
    return tried.resources_id is not None and tried.mean_reward is not None
