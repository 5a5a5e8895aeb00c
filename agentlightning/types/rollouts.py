"""Rollouts, their attempts, and the workers that run them. All times are Unix timestamps in seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

RolloutMode = Literal["train", "val", "test"]
RolloutStatus = Literal["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]
AttemptStatus = Literal["preparing", "running", "failed", "succeeded", "unresponsive", "timeout"]
WorkerStatus = Literal["idle", "busy", "unknown"]

Metadata = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]


class RolloutConfig(BaseModel):
    """Timeout and retry settings for a rollout's attempts."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    timeout_seconds: float | None = Field(default=None, gt=0)
    """Maximum duration of an attempt in seconds. An attempt that takes longer gets the status `timeout`. None means no
    limit, as long as heartbeats or spans arrive."""

    unresponsive_seconds: float | None = Field(default=None, gt=0)
    """Time in seconds without a heartbeat or span after which an attempt gets the status `unresponsive`. None means 30
    seconds."""

    max_attempts: int = Field(default=1, ge=1)
    """Maximum number of attempts, including the first."""

    retry_condition: list[AttemptStatus] = Field(default_factory=list[AttemptStatus])
    """Attempt statuses after which the rollout is retried, up to `max_attempts`."""


class Rollout(BaseModel):
    """One task with its status and result."""

    rollout_id: str
    input: Any
    start_time: float
    end_time: float | None = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    resources_version: int | None = None
    """Version of the resources that the agent gets. It is fixed when the rollout is created."""
    status: RolloutStatus = "queuing"
    config: RolloutConfig = Field(default_factory=RolloutConfig)
    metadata: Metadata = Field(default_factory=dict)
    reward: float | None = None
    """Final reward: the primary reward in the last reward span of the latest attempt."""


class Attempt(BaseModel):
    """One execution of a rollout."""

    rollout_id: str
    attempt_id: str
    sequence_id: int = Field(ge=1)
    """Number of the attempt within its rollout, starting at 1."""
    start_time: float
    end_time: float | None = None
    status: AttemptStatus = "preparing"
    worker_id: str | None = None
    last_heartbeat_time: float | None = None
    """Time of the last heartbeat or span."""
    metadata: dict[str, Any] | None = None
    """Additional JSON values. `reason` is the reason why the attempt ended. It is absent after a normal success."""


class AttemptedRollout(Rollout):
    """A rollout together with its latest attempt."""

    attempt: Attempt

    @model_validator(mode="after")
    def _check_attempt(self) -> Self:
        if self.attempt.rollout_id != self.rollout_id:
            raise ValueError(f"the attempt belongs to rollout {self.attempt.rollout_id}, not {self.rollout_id}")
        return self


class EnqueueRolloutRequest(BaseModel):
    """One of the rollouts to enqueue with `enqueue_many_rollouts`."""

    model_config = ConfigDict(extra="forbid")

    input: Any
    mode: RolloutMode | None = None
    resources_id: str | None = None
    config: RolloutConfig | None = None
    metadata: dict[str, Any] | None = None


class AttemptRef(BaseModel):
    """The ids of one attempt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rollout_id: str
    attempt_id: str


class Worker(BaseModel):
    """The store's record of a runner: its last known state."""

    worker_id: str
    status: WorkerStatus = "unknown"
    heartbeat_stats: dict[str, Any] | None = None
    last_heartbeat_time: float | None = None
    last_dequeue_time: float | None = None
    last_busy_time: float | None = None
    last_idle_time: float | None = None
    current_rollout_id: str | None = None
    current_attempt_id: str | None = None
    stale_attempts: list[AttemptRef] = Field(default_factory=list[AttemptRef])
    """Attempts listed in the heartbeat that are no longer active and must be stopped. Set only in responses to
    heartbeats."""
