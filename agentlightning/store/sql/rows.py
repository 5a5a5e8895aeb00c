"""Conversion of database rows to rollouts, attempts, resources and workers, and the columns to select for each."""

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
    NamedResources,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    Worker,
)
from ..contract import AnyRollout
from ..db.database import Row
from ..encoded_span import truncate_value
from ..lifecycle import AttemptState

M = TypeVar("M", bound=BaseModel)

# Each column has the same name as the model field that it stores.
_ROLLOUT_FIELDS = tuple(Rollout.model_fields)
ATTEMPT_FIELDS = tuple(Attempt.model_fields)
_WORKER_FIELDS = tuple(name for name in Worker.model_fields if name != "stale_attempts")
ROLLOUT = ", ".join(f"r.{name}" for name in _ROLLOUT_FIELDS)
ATTEMPT = ", ".join(f"a.{name}" for name in ATTEMPT_FIELDS)
WORKER = ", ".join(_WORKER_FIELDS)
RESOURCES = "resources_id, create_time, update_time, version, resources"
ROLLOUT_AND_ATTEMPT = f"{ROLLOUT}, {ATTEMPT}"
# SQL for the total size of the columns that can be large, in bytes. Both databases get it without reading a value.
ATTEMPT_SIZE = "coalesce(length(a.metadata), 0)"
ROLLOUT_SIZE = "length(r.input) + length(r.metadata)"
ROLLOUTS = "rollouts r LEFT JOIN attempts a ON a.rollout_id = r.rollout_id AND a.attempt_id = r.attempt_id"
"""SQL for a FROM clause with all rollouts, each joined with its latest attempt if it has one."""
_STATE_COLUMNS = (*ATTEMPT_FIELDS, "ordinal", "lease_start", "lease_seen", "last_sequence_id", "late_spans")
ATTEMPT_STATE = f"r.status, r.attempt_id, r.config, {', '.join(f'a.{name}' for name in _STATE_COLUMNS)}"
# `rollouts` must be the first table in this join, because PostgreSQL locks the joined rows in the order of the tables.
# To prevent deadlocks, every transaction must lock a rollout before it locks the rollout's attempts.
ATTEMPT_STATE_SOURCE = "rollouts r JOIN attempts a ON a.rollout_id = r.rollout_id"

_DEFAULT_CONFIG = RolloutConfig().__dict__
NO_CONFIG = b"{}"
"""The JSON text that is stored for the default configuration, which nearly every rollout has."""
_resources = TypeAdapter[dict[str, Any]](NamedResources)


def new_id(prefix: str, digits: int) -> str:
    """Return `prefix`, a hyphen and `digits` random hexadecimal digits, for example `ro-1d18988581cd`."""
    return f"{prefix}-{os.urandom(digits // 2).hex()}"


def cut_input(row: Row, cut_at: int | None) -> Row:
    """Truncate a rollout's input if its JSON text exceeds `cut_at` bytes, and return the row.

    The new input is a string that contains the beginning of the text. `row` starts with the columns `ROLLOUT`.
    """
    if cut_at is None or len(row[1]) <= cut_at:
        return row
    return (row[0], orjson.dumps(truncate_value(row[1], cut_at)), *row[2:])


def any_rollout(row: Row) -> AnyRollout:
    """Convert a row with the columns `ROLLOUT_AND_ATTEMPT` to a rollout, with its latest attempt if it has one."""
    attempt_row = row[len(_ROLLOUT_FIELDS) :]
    if attempt_row[0] is None:
        return rollout(row)
    return construct(AttemptedRollout, {**_rollout_fields(row), "attempt": attempt(attempt_row)})


def encoded_rollout(row: Row) -> bytes:
    """Like `any_rollout`, but return JSON text. The rollout's input and metadata are not decoded."""
    fields = dict[str, Any](zip(_ROLLOUT_FIELDS, row, strict=False))
    fields |= {"input": orjson.Fragment(row[1]), "config": config(row[8]), "metadata": orjson.Fragment(row[9])}
    attempt_row = row[len(_ROLLOUT_FIELDS) :]
    if attempt_row[0] is not None:
        fields["attempt"] = attempt(attempt_row)
    return payload.dumps_unchecked(fields)


def rollout(row: Row) -> Rollout:
    """Convert a row with the columns `ROLLOUT` to a rollout."""
    return construct(Rollout, _rollout_fields(row))


def attempt(row: Row) -> Attempt:
    """Convert a row with the columns `ATTEMPT` to an attempt."""
    return construct(Attempt, {**dict(zip(ATTEMPT_FIELDS, row, strict=False)), "metadata": json(row[8])})


def worker(row: Row) -> Worker:
    """Convert a row with the columns `WORKER` to a worker."""
    fields: dict[str, Any] = dict(zip(_WORKER_FIELDS, row, strict=False))
    fields["heartbeat_stats"] = json(row[2])
    fields["stale_attempts"] = list[AttemptRef]()
    return construct(Worker, fields)


def _rollout_fields(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = dict(zip(_ROLLOUT_FIELDS, row, strict=False))
    fields["input"] = orjson.loads(row[1])
    fields["config"] = config(row[8])
    fields["metadata"] = orjson.loads(row[9])
    return fields


def construct(model: type[M], fields: dict[str, Any]) -> M:
    """Construct a model without validation. `fields` must contain a valid value for every field of the model.

    Pydantic's `model_construct` takes ten times as long, because it looks up aliases and defaults.
    """
    made = model.__new__(model)
    object.__setattr__(made, "__dict__", fields)
    object.__setattr__(made, "__pydantic_fields_set__", set(fields))
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made


def resources_update(row: Row) -> ResourcesUpdate:
    """Convert a row with the columns `RESOURCES` to a `ResourcesUpdate`, which is one version of the resources."""
    return ResourcesUpdate.model_construct(
        resources_id=row[0],
        create_time=row[1],
        update_time=row[2],
        version=row[3],
        resources=_resources.validate_json(row[4]),
    )


def resources_json(resources: NamedResources) -> tuple[NamedResources, bytes]:
    """Return the validated resources and their JSON text. Raises `InvalidInput` if the resources are invalid."""
    try:
        valid = _resources.validate_python(resources)
    except ValidationError as error:
        raise InvalidInput.of(error) from None
    return valid, payload.dumps_unchecked(valid, field="resources")


class AttemptRow:
    """A stored attempt: its columns, its rollout's configuration, and its state for the rules in `lifecycle.py`."""

    __slots__ = ("columns", "config", "state")

    def __init__(self, row: Row) -> None:
        rollout_status, latest_id, config_text, *values = row
        self.columns: dict[str, Any] = dict(zip(_STATE_COLUMNS, values, strict=True))
        """Current values of the columns. Code that changes a column in the database must also change its value here."""
        self.config = config(config_text)
        rollout_id, attempt_id, sequence_id = values[:3]
        latest = attempt_id == latest_id
        self.state = AttemptState(
            rollout_id, rollout_status, attempt_id, self.columns["status"], latest, sequence_id, self.config
        )
        """State of the attempt and its rollout when the row was read. Later changes do not update it."""

    def attempt(self) -> Attempt:
        """Return the current values of the columns as an attempt."""
        return attempt(tuple(self.columns.values()))


def config(text: bytes) -> RolloutConfig:
    """Decode a stored configuration. Fields that were not stored get their default values."""
    given: dict[str, Any] = {} if text == NO_CONFIG else orjson.loads(text)
    return construct(RolloutConfig, {**_DEFAULT_CONFIG, "retry_condition": [], **given})


def config_json(config: RolloutConfig) -> bytes:
    """Encode a configuration as JSON text with only the fields that differ from their defaults (usually none)."""
    return payload.dumps_unchecked(config.model_dump(exclude_defaults=True), field="config")


def json(text: bytes | None) -> Any:
    return None if text is None else orjson.loads(text)


def json_or_null(value: Any, field: str) -> bytes | None:
    return None if value is None else payload.dumps_unchecked(value, field=field)
