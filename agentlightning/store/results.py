"""Results of store operations that are JSON objects: statistics, leases, and the summary of a run."""

from __future__ import annotations

from typing import Any

# Before Python 3.12, pydantic requires the TypedDict from typing_extensions, a dependency of pydantic.
from typing_extensions import TypedDict

from ..types import RolloutMode


class Capabilities(TypedDict):
    """The guarantees that a store gives its callers."""

    durable: bool
    """True if acknowledged changes survive the end of the process."""
    thread_safe: bool
    async_safe: bool
    zero_copy: bool
    """True if the caller and the store share a process."""
    otlp_traces: bool
    """True if `otlp_traces_endpoint()` returns a URL that accepts OTLP/HTTP."""


class Statistics(TypedDict):
    """Counts of stored objects."""

    rollouts: dict[str, int]
    """Number of rollouts by status. Statuses without rollouts are left out."""
    attempts: int
    spans: int
    resources: int
    workers: dict[str, int]
    queue_depth: int


class Lease(TypedDict):
    """A named lock and its current holder."""

    holder: str
    """Name that the holder passed to `hold_lease`."""
    about: dict[str, Any] | None
    """Information provided by the holder."""
    since: float
    """Time at which the holder acquired the lock."""
    seen: float
    """Time of the last renewal."""
    seconds_left: float
    """Seconds until the lease expires if it is not renewed."""


class RewardStep(TypedDict):
    """Reward statistics for one step of the run: a number of consecutive rollouts of the same mode."""

    rollout: int
    """Number of the last rollout in this step. Rollouts are numbered in order of creation."""
    mode: RolloutMode | None
    count: int
    mean: float
    deviation: float
    """Standard deviation of the rewards."""


class VersionScore(TypedDict):
    """Reward statistics for the rollouts that used one version of the resources."""

    resources_id: str
    version: int
    mode: RolloutMode | None
    count: int
    mean: float
    deviation: float


class ErrorCount(TypedDict):
    """Failed rollouts with similar error messages."""

    message: str
    count: int
    rollout_id: str
    """Id of the newest of these rollouts."""


class Summary(TypedDict):
    """Progress, rewards and errors of a run."""

    time: float
    rollouts: dict[str, int]
    """Number of rollouts by status. Statuses without rollouts are left out."""
    workers: dict[str, int]
    ended_per_minute: float | None
    """None if all rollouts have ended, if none has ended yet, or if none is running and none has ended recently."""
    seconds_left: float | None
    """Estimated seconds until all rollouts have ended, or None if `ended_per_minute` is None."""
    ended_per_minute_by_worker: dict[str, float]
    steps: list[RewardStep]
    versions: list[VersionScore]
    """Scores of those of the newest 200 versions whose rollouts have rewards, oldest version first."""
    errors: list[ErrorCount]
    """Errors from the newest 300 failed rollouts, most frequent first."""
