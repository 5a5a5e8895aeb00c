"""Lifecycle of rollouts and attempts: status tables and pure functions, without clocks, locks or SQL.

This module determines every status change, and the diagrams in the docs are generated from its tables. A report about
an attempt changes the status of the rollout only if the attempt is the latest one and the rollout has not ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeVar

from ..errors import Conflict, FinalStatus, StaleAttempt
from ..types import AttemptStatus, RolloutConfig, RolloutStatus

DEFAULT_UNRESPONSIVE_SECONDS: Final = 30.0
"""Default for `RolloutConfig.unresponsive_seconds`: three heartbeat intervals of ten seconds each."""

MAX_LATE_SPANS: Final = 10_000
"""Maximum number of spans per attempt that are stored although they arrive after the attempt has ended."""

QUEUED: Final = frozenset[RolloutStatus]({"queuing", "requeuing"})
FINAL: Final = frozenset[RolloutStatus]({"succeeded", "failed", "cancelled"})

LIVE: Final = frozenset[AttemptStatus]({"preparing", "running"})
"""Statuses of a live attempt, which a worker is executing. A rollout has at most one live attempt at a time."""
ENDED: Final = frozenset[AttemptStatus]({"succeeded", "failed", "timeout"})
"""Final statuses of an attempt. `unresponsive` is neither live nor final: the attempt may recover."""

ROLLOUT_TRANSITIONS: Final[Mapping[RolloutStatus, frozenset[RolloutStatus]]] = {
    "queuing": frozenset({"preparing", "succeeded", "failed", "cancelled"}),
    "preparing": frozenset({"running", "queuing", "requeuing", "succeeded", "failed", "cancelled"}),
    "running": frozenset({"preparing", "queuing", "requeuing", "succeeded", "failed", "cancelled"}),
    "requeuing": frozenset({"preparing", "running", "succeeded", "failed", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

ATTEMPT_TRANSITIONS: Final[Mapping[AttemptStatus, frozenset[AttemptStatus]]] = {
    "preparing": frozenset({"running", "succeeded", "failed", "timeout", "unresponsive"}),
    "running": frozenset({"succeeded", "failed", "timeout", "unresponsive"}),
    "unresponsive": frozenset({"running", "succeeded", "failed", "timeout"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "timeout": frozenset(),
}


class Transition(NamedTuple):
    """The statuses of a rollout and its attempt after an event. Either status may be unchanged."""

    rollout: RolloutStatus
    attempt: AttemptStatus | None
    """None if the rollout has no attempts."""


@dataclass(frozen=True, slots=True)
class AttemptState:
    """The fields of an attempt and its rollout that determine transitions."""

    rollout_id: str
    rollout: RolloutStatus
    attempt_id: str
    attempt: AttemptStatus
    latest: bool
    """True if the attempt is the rollout's latest attempt."""
    sequence_id: int
    config: RolloutConfig


def report(state: AttemptState, status: AttemptStatus) -> Transition:
    """Return the transition for a report that an attempt now has the status `status`.

    Raises `FinalStatus`, `StaleAttempt` or `Conflict` if the report must be rejected.
    """
    _check_reportable(state)
    if status == state.attempt:
        return Transition(state.rollout, state.attempt)
    if status not in ATTEMPT_TRANSITIONS[state.attempt]:
        raise Conflict(
            f"attempt {state.attempt_id} of {state.rollout_id} is {state.attempt} and cannot become {status}"
        )
    match status:
        case "running":
            return Transition("running", "running")
        case "succeeded":
            return Transition("succeeded", "succeeded")
        case "failed" | "timeout" | "unresponsive":
            return Transition(_after_failure(state, status), status)
        case "preparing":  # unreachable: rejected by ATTEMPT_TRANSITIONS
            raise AssertionError(status)


def heartbeat(state: AttemptState) -> Transition | None:
    """Return the transition after a heartbeat or span, or None if the heartbeat or span arrives too late."""
    if not state.latest or state.rollout in FINAL or state.attempt in ENDED:
        return None
    if state.attempt == "unresponsive" and state.rollout not in QUEUED:
        return None
    return Transition("running", "running")


def check_late_spans(state: AttemptState, count: int) -> None:
    """Raise `FinalStatus` if `count`, the number of an ended attempt's late spans, exceeds `MAX_LATE_SPANS`."""
    if count > MAX_LATE_SPANS:
        raise FinalStatus(
            f"attempt {state.attempt_id} of {state.rollout_id} has ended and cannot have more than {MAX_LATE_SPANS:,} "
            "late spans; send spans before the attempt ends"
        )


def claim(rollout: RolloutStatus) -> Transition:
    """Return the statuses of a rollout and its new attempt after a worker claims the rollout."""
    assert rollout not in FINAL
    return Transition("preparing", "preparing")


def set_rollout_status(
    rollout_id: str, rollout: RolloutStatus, attempt: AttemptStatus | None, to: RolloutStatus
) -> Transition:
    """Return the transition when a client changes a rollout's status from `rollout` to `to`.

    `attempt` is the status of the latest attempt. A live attempt ends when the rollout ends or returns to the queue.
    Raises `FinalStatus` if the rollout has already ended, and `Conflict` if a worker must claim the rollout first.
    """
    if to == rollout:
        return Transition(rollout, attempt)
    if rollout in FINAL:
        raise FinalStatus(f"rollout {rollout_id} has already {_past_tense(rollout)}")
    live = attempt in LIVE
    match to:
        case "queuing" | "requeuing":
            # A rollout that is already queued keeps its status and its position in the queue.
            return Transition(rollout, attempt) if rollout in QUEUED else Transition(to, "failed" if live else attempt)
        case "cancelled" | "failed":
            return Transition(to, "failed" if live else attempt)
        case "succeeded":
            return Transition(to, "succeeded" if live else attempt)
        case "running" if live:
            return Transition("running", "running")
        case "running" | "preparing":
            raise Conflict(f"rollout {rollout_id} is {rollout}; it becomes {to} when a worker claims it")


class Deadlines(NamedTuple):
    """The deadlines of an attempt, in seconds on the same clock as its start and its last heartbeat."""

    timeout: float | None
    """Deadline for the end of the attempt, or None if its duration is unlimited."""
    silence: float
    """Deadline for the next heartbeat or span."""

    @property
    def next(self) -> float:
        """The earlier of the two deadlines."""
        return self.silence if self.timeout is None else min(self.timeout, self.silence)


def deadlines(config: RolloutConfig, started: float, last_heartbeat: float) -> Deadlines:
    """Return the deadlines of an attempt from its start time and the time of its last heartbeat or span."""
    silence = config.unresponsive_seconds or DEFAULT_UNRESPONSIVE_SECONDS
    timeout = None if config.timeout_seconds is None else started + config.timeout_seconds
    return Deadlines(timeout, last_heartbeat + silence)


def expired(due: Deadlines, now: float) -> Literal["timeout", "unresponsive"] | None:
    """Return the new status of an attempt if one of its deadlines has passed at time `now`, or None otherwise."""
    if due.timeout is not None and now > due.timeout:
        return "timeout"
    return "unresponsive" if now > due.silence else None


def timeout_reason(status: AttemptStatus, config: RolloutConfig) -> str:
    """Return the reason to store with an attempt that has missed a deadline and now has this status."""
    if status == "timeout":
        return f"took longer than timeout_seconds={config.timeout_seconds:g}"
    silence = config.unresponsive_seconds or DEFAULT_UNRESPONSIVE_SECONDS
    return f"no heartbeat and no span for {silence:g} seconds"


def diagrams() -> dict[str, str]:
    """Return the status tables as Mermaid state diagrams for the docs."""
    return {
        "rollout": _diagram("queuing", ROLLOUT_TRANSITIONS, FINAL),
        "attempt": _diagram("preparing", ATTEMPT_TRANSITIONS, ENDED),
    }


def _check_reportable(state: AttemptState) -> None:
    if not state.latest:
        raise StaleAttempt(f"attempt {state.attempt_id} of {state.rollout_id} was superseded by a later attempt")
    if state.rollout in FINAL:
        raise FinalStatus(f"rollout {state.rollout_id} has already {_past_tense(state.rollout)}")
    if state.attempt in ENDED:
        raise FinalStatus(f"attempt {state.attempt_id} of {state.rollout_id} has already {_past_tense(state.attempt)}")


def _after_failure(state: AttemptState, status: AttemptStatus) -> RolloutStatus:
    if state.rollout in QUEUED:
        return state.rollout
    retry = status in state.config.retry_condition and state.sequence_id < state.config.max_attempts
    return "requeuing" if retry else "failed"


def _past_tense(status: RolloutStatus | AttemptStatus) -> str:
    return {"cancelled": "been cancelled", "timeout": "timed out"}.get(status, status)


Status = TypeVar("Status", bound=str)


def _diagram(first: Status, transitions: Mapping[Status, frozenset[Status]], final: frozenset[Status]) -> str:
    def lines() -> Iterator[str]:
        yield "stateDiagram-v2"
        yield f"    [*] --> {first}"
        for status, targets in transitions.items():
            yield from (f"    {status} --> {target}" for target in sorted(targets))
        yield from (f"    {status} --> [*]" for status in sorted(final))

    return "\n".join(lines())
