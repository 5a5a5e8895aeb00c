"""What status follows what: tables and pure functions.

No clock, no lock, no SQL. Every change of a status in the system is decided here; the docs' diagrams are drawn from
these tables. An attempt speaks for its rollout only while it is the latest one and the rollout has not ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeVar

from ..errors import Conflict, FinalStatus, StaleAttempt
from ..types import AttemptStatus, RolloutConfig, RolloutStatus

DEFAULT_UNRESPONSIVE_SECONDS: Final = 30.0
"""Three heartbeats of the runner's ten seconds."""

QUEUED: Final = frozenset[RolloutStatus]({"queuing", "requeuing"})
FINAL: Final = frozenset[RolloutStatus]({"succeeded", "failed", "cancelled"})

LIVE: Final = frozenset[AttemptStatus]({"preparing", "running"})
"""A worker is on it: at most one attempt of a rollout is live at a time."""
ENDED: Final = frozenset[AttemptStatus]({"succeeded", "failed", "timeout"})
"""Nothing changes the attempt any more. `unresponsive` is in between: it may yet come back."""

ROLLOUT_FOLLOWS: Final[Mapping[RolloutStatus, frozenset[RolloutStatus]]] = {
    "queuing": frozenset({"preparing", "succeeded", "failed", "cancelled"}),
    "preparing": frozenset({"running", "queuing", "requeuing", "succeeded", "failed", "cancelled"}),
    "running": frozenset({"preparing", "queuing", "requeuing", "succeeded", "failed", "cancelled"}),
    "requeuing": frozenset({"preparing", "running", "succeeded", "failed", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

ATTEMPT_FOLLOWS: Final[Mapping[AttemptStatus, frozenset[AttemptStatus]]] = {
    "preparing": frozenset({"running", "succeeded", "failed", "timeout", "unresponsive"}),
    "running": frozenset({"succeeded", "failed", "timeout", "unresponsive"}),
    "unresponsive": frozenset({"running", "succeeded", "failed", "timeout"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "timeout": frozenset(),
}


class Following(NamedTuple):
    """The statuses that follow; equal to the old ones where nothing changes."""

    rollout: RolloutStatus
    attempt: AttemptStatus | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an attempt and its rollout stand, as far as the rules need to know."""

    rollout_id: str
    rollout: RolloutStatus
    attempt_id: str
    attempt: AttemptStatus
    latest: bool
    """This attempt is the rollout's latest."""
    sequence_id: int
    config: RolloutConfig


def report(now: Standing, status: AttemptStatus) -> Following:
    """What follows when an attempt is reported to be in `status`.

    Raises `FinalStatus`, `StaleAttempt` or `Conflict` when the report may change nothing.
    """
    _may_speak(now)
    if status == now.attempt:
        return Following(now.rollout, now.attempt)
    if status not in ATTEMPT_FOLLOWS[now.attempt]:
        raise Conflict(f"attempt {now.attempt_id} of {now.rollout_id} is {now.attempt} and cannot become {status}")
    match status:
        case "running":
            return Following("running", "running")
        case "succeeded":
            return Following("succeeded", "succeeded")
        case "failed" | "timeout" | "unresponsive":
            return Following(_after_a_failure(now, status), status)
        case "preparing":  # in no row of ATTEMPT_FOLLOWS
            raise AssertionError(status)


def sign_of_life(now: Standing) -> Following | None:
    """What follows from a heartbeat or a span; None when it comes too late to mean anything."""
    if not now.latest or now.rollout in FINAL or now.attempt in ENDED:
        return None
    if now.attempt == "unresponsive" and now.rollout not in QUEUED:
        return None
    return Following("running", "running")


def claim(rollout: RolloutStatus) -> Following:
    """What follows when a worker takes a rollout: a new attempt."""
    assert rollout not in FINAL
    return Following("preparing", "preparing")


def set_by_hand(rollout_id: str, rollout: RolloutStatus, attempt: AttemptStatus | None, to: RolloutStatus) -> Following:
    """What follows when a rollout's status is set from outside; `attempt` is the latest one's, if there is one.

    A live attempt is ended with it. Raises `FinalStatus` when the rollout has ended, `Conflict` when `to` would need a
    worker that is not there.
    """
    if to == rollout:
        return Following(rollout, attempt)
    if rollout in FINAL:
        raise FinalStatus(f"rollout {rollout_id} has already {_has(rollout)}")
    live = attempt in LIVE
    match to:
        case "queuing" | "requeuing":
            # Already in the queue: it is there once, under the name it has.
            return Following(rollout, attempt) if rollout in QUEUED else Following(to, "failed" if live else attempt)
        case "cancelled" | "failed":
            return Following(to, "failed" if live else attempt)
        case "succeeded":
            return Following(to, "succeeded" if live else attempt)
        case "running" if live:
            return Following("running", "running")
        case "running" | "preparing":
            raise Conflict(f"rollout {rollout_id} is {rollout}; it becomes {to} when a worker takes it")


class Deadlines(NamedTuple):
    """When an attempt is given up, on the clock that its start and its last sign of life were read from."""

    timeout: float | None
    silence: float

    @property
    def next(self) -> float:
        """The one that comes first."""
        return self.silence if self.timeout is None else min(self.timeout, self.silence)


def deadlines(config: RolloutConfig, started: float, last_sign: float) -> Deadlines:
    """When an attempt that began at `started` is `timeout`, and when `unresponsive`."""
    silence = config.unresponsive_seconds or DEFAULT_UNRESPONSIVE_SECONDS
    timeout = None if config.timeout_seconds is None else started + config.timeout_seconds
    return Deadlines(timeout, last_sign + silence)


def missed(due: Deadlines, now: float) -> Literal["timeout", "unresponsive"] | None:
    """Which deadline has passed, if one has."""
    if due.timeout is not None and now > due.timeout:
        return "timeout"
    return "unresponsive" if now > due.silence else None


def why(status: AttemptStatus, config: RolloutConfig) -> str:
    """The reason kept with an attempt that the store itself gave up."""
    if status == "timeout":
        return f"took longer than timeout_seconds={config.timeout_seconds:g}"
    silence = config.unresponsive_seconds or DEFAULT_UNRESPONSIVE_SECONDS
    return f"no heartbeat and no span for {silence:g} seconds"


def diagrams() -> dict[str, str]:
    """The tables as Mermaid state diagrams, for the docs."""
    return {
        "rollout": _diagram("queuing", ROLLOUT_FOLLOWS, FINAL),
        "attempt": _diagram("preparing", ATTEMPT_FOLLOWS, ENDED),
    }


def _may_speak(now: Standing) -> None:
    if not now.latest:
        raise StaleAttempt(f"attempt {now.attempt_id} of {now.rollout_id} was superseded by a later attempt")
    if now.rollout in FINAL:
        raise FinalStatus(f"rollout {now.rollout_id} has already {_has(now.rollout)}")
    if now.attempt in ENDED:
        raise FinalStatus(f"attempt {now.attempt_id} of {now.rollout_id} has already {_has(now.attempt)}")


def _after_a_failure(now: Standing, status: AttemptStatus) -> RolloutStatus:
    if now.rollout in QUEUED:
        return now.rollout
    again = status in now.config.retry_condition and now.sequence_id < now.config.max_attempts
    return "requeuing" if again else "failed"


def _has(status: RolloutStatus | AttemptStatus) -> str:
    return {"cancelled": "been cancelled", "timeout": "timed out"}.get(status, status)


Status = TypeVar("Status", bound=str)


def _diagram(first: Status, follows: Mapping[Status, frozenset[Status]], final: frozenset[Status]) -> str:
    def lines() -> Iterator[str]:
        yield "stateDiagram-v2"
        yield f"    [*] --> {first}"
        for status, following in follows.items():
            yield from (f"    {status} --> {after}" for after in sorted(following))
        yield from (f"    {status} --> [*]" for status in sorted(final))

    return "\n".join(lines())
