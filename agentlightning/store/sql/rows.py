"""Rows and the nouns they hold: which columns there are, and how a row becomes a rollout, an attempt, a worker."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from ... import payload
from ...errors import InvalidInput
from ...types import (
    Attempt,
    AttemptedRollout,
    AttemptRef,
    AttemptStatus,
    NamedResources,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    Worker,
)
from ..contract import AnyRollout
from ..db.database import Row
from ..lifecycle import Standing
from ..partial_decode import cut_value

M = TypeVar("M", bound=BaseModel)

ROLLOUT = (
    "r.rollout_id, r.input, r.start_time, r.end_time, r.mode, r.resources_id, r.resources_version, r.status, "
    "r.config, r.metadata, r.reward"
)
ATTEMPT = (
    "a.rollout_id, a.attempt_id, a.sequence_id, a.start_time, a.end_time, a.status, a.worker_id, "
    "a.last_heartbeat_time, a.metadata"
)
ROLLOUT_AND_ATTEMPT = f"{ROLLOUT}, {ATTEMPT}"
ROLLOUTS = "rollouts r LEFT JOIN attempts a ON a.rollout_id = r.rollout_id AND a.attempt_id = r.attempt_id"
"""Every rollout, beside its latest attempt where it has one."""
RESOURCES = "resources_id, create_time, update_time, version, resources"
WORKER = (
    "worker_id, status, heartbeat_stats, last_heartbeat_time, last_dequeue_time, last_busy_time, last_idle_time, "
    "current_rollout_id, current_attempt_id"
)
STANDING = (
    "r.rollout_id, r.status, a.attempt_id, a.status, r.attempt_id, a.sequence_id, r.config, "
    "a.worker_id, a.lease_start, a.lease_seen, a.last_sequence_id, a.metadata, a.ordinal, "
    "a.start_time, a.end_time, a.last_heartbeat_time"
)
# The rollout first: a database that locks rows locks them in this order.
STANDINGS = "rollouts r JOIN attempts a ON a.rollout_id = r.rollout_id"

_ROLLOUT_COLUMNS = ROLLOUT.count(",") + 1
_resources = TypeAdapter[dict[str, Any]](NamedResources)


def new_id(prefix: str, digits: int) -> str:
    """`ro-1d18988581cd`."""
    return f"{prefix}-{os.urandom(digits // 2).hex()}"


def any_rollout(row: Row, cut_at: int | None = None) -> AnyRollout:
    """A row of `ROLLOUT_AND_ATTEMPT`; an input of more than `cut_at` bytes is only its beginning."""
    attempt = row[_ROLLOUT_COLUMNS:]
    if cut_at is not None and len(row[1]) > cut_at:
        row = (row[0], orjson.dumps(cut_value(row[1], cut_at)), *row[2:])
    return rollout(row) if attempt[0] is None else attempted(row)


def rollout(row: Row) -> Rollout:
    return built(Rollout, _rollout_fields(row))


def attempted(row: Row) -> AttemptedRollout:
    return built(AttemptedRollout, {**_rollout_fields(row), "attempt": attempt(row[_ROLLOUT_COLUMNS:])})


def attempt(row: Row) -> Attempt:
    return built(
        Attempt,
        {
            "rollout_id": row[0],
            "attempt_id": row[1],
            "sequence_id": row[2],
            "start_time": row[3],
            "end_time": row[4],
            "status": row[5],
            "worker_id": row[6],
            "last_heartbeat_time": row[7],
            "metadata": json(row[8]),
        },
    )


def built(model: type[M], fields: dict[str, Any]) -> M:
    """A model of all its `fields`, which are known to be valid.

    What `model_construct` does in the end; its search for aliases and defaults first takes ten times as long.
    """
    made = model.__new__(model)
    object.__setattr__(made, "__dict__", fields)
    object.__setattr__(made, "__pydantic_fields_set__", set(fields))
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made


def resources_update(row: Row) -> ResourcesUpdate:
    return ResourcesUpdate.model_construct(
        resources_id=row[0],
        create_time=row[1],
        update_time=row[2],
        version=row[3],
        resources=_resources.validate_json(row[4]),
    )


def resources_json(resources: NamedResources) -> tuple[NamedResources, bytes]:
    """`resources` as they will be read again, and their JSON text."""
    try:
        valid = _resources.validate_python(resources)
    except ValidationError as error:
        raise InvalidInput.of(error) from None
    return valid, payload.dumps(valid, field="resources")


def worker(row: Row) -> Worker:
    return built(
        Worker,
        {
            "worker_id": row[0],
            "status": row[1],
            "heartbeat_stats": json(row[2]),
            "last_heartbeat_time": row[3],
            "last_dequeue_time": row[4],
            "last_busy_time": row[5],
            "last_idle_time": row[6],
            "current_rollout_id": row[7],
            "current_attempt_id": row[8],
            "stale_attempts": list[AttemptRef](),
        },
    )


class AttemptRow:
    """What the rules, and the statements that follow from them, need to know of an attempt.

    Whoever changes the row in the database changes it here too; only `standing` remains what it was.
    """

    __slots__ = (
        "config",
        "end_time",
        "last_heartbeat_time",
        "last_sequence_id",
        "lease_seen",
        "lease_start",
        "metadata",
        "ordinal",
        "standing",
        "start_time",
        "status",
        "worker",
    )

    def __init__(self, row: Row) -> None:
        self.config = config(row[6])
        self.standing = Standing(
            rollout_id=row[0],
            rollout=row[1],
            attempt_id=row[2],
            attempt=row[3],
            latest=row[4] == row[2],
            sequence_id=row[5],
            config=self.config,
        )
        self.worker: str | None = row[7]
        self.lease_start: float = row[8]
        self.lease_seen: float = row[9]
        self.last_sequence_id: int = row[10]
        self.metadata: bytes | None = row[11]
        self.ordinal: int = row[12]
        self.start_time: float = row[13]
        self.end_time: float | None = row[14]
        self.last_heartbeat_time: float | None = row[15]
        self.status: AttemptStatus = self.standing.attempt

    def attempt(self) -> Attempt:
        """The attempt as it stands now."""
        standing = self.standing
        return attempt(
            (
                standing.rollout_id,
                standing.attempt_id,
                standing.sequence_id,
                self.start_time,
                self.end_time,
                self.status,
                self.worker,
                self.last_heartbeat_time,
                self.metadata,
            )
        )


def config(text: bytes) -> RolloutConfig:
    given: dict[str, Any] = {} if text == NO_CONFIG else orjson.loads(text)
    return built(RolloutConfig, {**_DEFAULT_CONFIG, "retry_condition": [], **given})


_DEFAULT_CONFIG = RolloutConfig().__dict__
NO_CONFIG = b"{}"
"""What nearly every rollout is configured with: the defaults."""


def config_json(config: RolloutConfig) -> bytes:
    """Only what differs from the defaults, which is nearly always nothing."""
    return payload.dumps(config.model_dump(exclude_defaults=True), field="config")


def json(text: bytes | None) -> Any:
    return None if text is None else orjson.loads(text)


def json_or_null(value: Any, field: str) -> bytes | None:
    return None if value is None else payload.dumps(value, field=field)


def _rollout_fields(row: Row) -> dict[str, Any]:
    return {
        "rollout_id": row[0],
        "input": orjson.loads(row[1]),
        "start_time": row[2],
        "end_time": row[3],
        "mode": row[4],
        "resources_id": row[5],
        "resources_version": row[6],
        "status": row[7],
        "config": config(row[8]),
        "metadata": orjson.loads(row[9]),
        "reward": row[10],
    }
