"""Types of the JSON objects that a store returns: capabilities, statistics, leases, and the summary of a run."""

from __future__ import annotations

from typing import Any

# Before Python 3.12, pydantic accepts only the TypedDict from typing_extensions, which is installed with pydantic.
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
    """The state of a lease, which is a named lock that expires unless its holder renews it."""

    holder: str
    """The `holder` argument with which the lease was acquired."""
    about: dict[str, Any] | None
    """Information that the holder provided about itself."""
    since: float
    """Time at which the holder acquired the lease."""
    seen: float
    """Time of the last renewal."""
    seconds_left: float
    """Seconds until the lease expires if it is not renewed."""


class RewardStep(TypedDict):
    """Reward statistics for the rollouts of one mode in one step. A step is a group of consecutive rollouts."""

    rollout: int
    """Number of the last rollout in this step. Rollouts are numbered from 1 in order of creation."""
    mode: RolloutMode | None
    count: int
    mean: float
    deviation: float
    """Standard deviation of the rewards."""


class VersionScore(TypedDict):
    """Reward statistics for the rollouts of one mode that used one version of the resources."""

    resources_id: str
    version: int
    mode: RolloutMode | None
    count: int
    mean: float
    deviation: float


class ErrorCount(TypedDict):
    """A group of failed rollouts with similar error messages."""

    message: str
    count: int
    rollout_id: str
    """Id of the newest rollout in the group."""


class Summary(TypedDict):
    """Progress, rewards and errors of a run."""

    time: float
    rollouts: dict[str, int]
    """Number of rollouts by status. Statuses without rollouts are left out."""
    workers: dict[str, int]
    ended_per_minute: float | None
    """Rate at which rollouts are currently ending.

    None if all rollouts have ended, if none has ended yet, or if none is running and none has ended in the last minute.
    """
    seconds_left: float | None
    """Estimated time in seconds until all rollouts have ended, or None if `ended_per_minute` is None."""
    ended_per_minute_by_worker: dict[str, float]
    steps: list[RewardStep]
    versions: list[VersionScore]
    """Scores of the newest 200 resource versions, oldest first. Versions without rewards are left out."""
    errors: list[ErrorCount]
    """Errors of the newest 300 failed rollouts, most frequent first."""
