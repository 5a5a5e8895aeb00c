"""Rollouts, their attempts, and the workers that carry them out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

RolloutMode = Literal["train", "val", "test"]
RolloutStatus = Literal["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]
AttemptStatus = Literal["preparing", "running", "failed", "succeeded", "unresponsive", "timeout"]
WorkerStatus = Literal["idle", "busy", "unknown"]

Metadata = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]


class RolloutConfig(BaseModel):
    """How long an attempt may take, and when another is made."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    timeout_seconds: float | None = Field(default=None, gt=0)
    """An attempt older than this is `timeout`. None: it may take as long as it gives signs of life."""

    unresponsive_seconds: float | None = Field(default=None, gt=0)
    """An attempt without a heartbeat or span for this long is `unresponsive`. None: the store's default."""

    max_attempts: int = Field(default=1, ge=1)
    """Attempts in all, the first one included."""

    retry_condition: list[AttemptStatus] = Field(default_factory=list[AttemptStatus])
    """How an attempt must have ended for another to be made."""


class Rollout(BaseModel):
    """One task, and how far it has come."""

    rollout_id: str
    input: Any
    start_time: float
    end_time: float | None = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    resources_version: int | None = None
    """Which version of the resources it uses, fixed when it was enqueued."""
    status: RolloutStatus = "queuing"
    config: RolloutConfig = Field(default_factory=RolloutConfig)
    metadata: Metadata = Field(default_factory=dict)
    reward: float | None = None
    """The final reward: the primary one of the last span of the latest attempt that carries any."""


class Attempt(BaseModel):
    """One execution of a rollout."""

    rollout_id: str
    attempt_id: str
    sequence_id: int = Field(ge=1)
    """1 for the rollout's first attempt, 2 for the second, and so on."""
    start_time: float
    end_time: float | None = None
    status: AttemptStatus = "preparing"
    worker_id: str | None = None
    last_heartbeat_time: float | None = None
    """The last sign of life: a heartbeat or a span."""
    metadata: dict[str, Any] | None = None
    """`reason` says why it ended, where that is not plain success."""


class AttemptedRollout(Rollout):
    """A rollout together with its latest attempt."""

    attempt: Attempt

    @model_validator(mode="after")
    def _attempt_is_of_this_rollout(self) -> Self:
        if self.attempt.rollout_id != self.rollout_id:
            raise ValueError(f"attempt of {self.attempt.rollout_id} given for rollout {self.rollout_id}")
        return self


class EnqueueRolloutRequest(BaseModel):
    """What `enqueue_many_rollouts` takes, one for each rollout."""

    model_config = ConfigDict(extra="forbid")

    input: Any
    mode: RolloutMode | None = None
    resources_id: str | None = None
    config: RolloutConfig | None = None
    metadata: dict[str, Any] | None = None


class AttemptRef(BaseModel):
    """Names one attempt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rollout_id: str
    attempt_id: str


class Worker(BaseModel):
    """A runner's slot, as the store last saw it."""

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
    """Only in the reply to a heartbeat: attempts it named that are no longer live, so whose work should stop."""
