"""A reference model of the store, written in plain Python from the documented rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from agentlightning.types import RolloutConfig

FINAL = ("succeeded", "failed", "cancelled")
ENDED = ("succeeded", "failed", "timeout")
LIVE = ("preparing", "running")


class ExpectedError(Exception):
    """The store must reject the call with the error of this name."""


@dataclass(eq=False)
class ReferenceRollout:
    """A rollout with its attempts."""

    name: int
    config: RolloutConfig
    resources: tuple[str, int] | None
    status: str = "queuing"
    attempts: list[ReferenceAttempt] = field(default_factory=list)


@dataclass(eq=False)
class ReferenceAttempt:
    """An attempt of a rollout."""

    name: int
    rollout: ReferenceRollout
    worker: str | None
    status: str = "preparing"
    spans: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """Maps each span number to its sequence id, and to True if the span was late."""
    last_sequence_id: int = 0

    @property
    def is_live(self) -> bool:
        return self.status in LIVE

    @property
    def is_latest(self) -> bool:
        return self is self.rollout.attempts[-1]


class Reference:
    """The expected contents of the store, and the transitions of the rollouts."""

    def __init__(self) -> None:
        self.rollouts: list[ReferenceRollout] = []
        self.queue: list[ReferenceRollout] = []
        self.resources: list[tuple[str, int]] = []
        self.lease_holder: str | None = None
        """The holder of the only lease."""
        self.unresponsive_workers: set[str | None] = set()
        """Workers with an unresponsive attempt; the store may list them as busy or not."""
        self._names = count()

    def enqueue(self, config: RolloutConfig) -> ReferenceRollout:
        rollout = ReferenceRollout(next(self._names), config, self.resources[-1] if self.resources else None)
        self.rollouts.append(rollout)
        self.queue.append(rollout)
        return rollout

    def start_attempt(self, rollout: ReferenceRollout, worker: str | None = None) -> ReferenceAttempt:
        if rollout.status in FINAL:
            raise ExpectedError("FinalStatus")
        self._dequeue(rollout, "preparing")
        if rollout.attempts and rollout.attempts[-1].is_live:
            rollout.attempts[-1].status = "failed"
        rollout.attempts.append(ReferenceAttempt(next(self._names), rollout, worker))
        return rollout.attempts[-1]

    def report(self, attempt: ReferenceAttempt, status: str) -> None:
        rollout = attempt.rollout
        if not attempt.is_latest:
            raise ExpectedError("StaleAttempt")
        if rollout.status in FINAL or attempt.status in ENDED:
            raise ExpectedError("FinalStatus")
        if status == attempt.status:
            return
        if status == "preparing":
            raise ExpectedError("Conflict")
        attempt.status = status
        if status == "unresponsive":
            self.unresponsive_workers.add(attempt.worker)
        if status in ("running", "succeeded"):
            self._dequeue(rollout, status)
        elif rollout not in self.queue:
            retry = status in rollout.config.retry_condition and len(rollout.attempts) < rollout.config.max_attempts
            self._requeue(rollout, "requeuing") if retry else self._dequeue(rollout, "failed")

    def heartbeat(self, attempt: ReferenceAttempt) -> bool:
        """Record a heartbeat; return True if the attempt is current."""
        if not attempt.is_latest or attempt.rollout.status in FINAL:
            return False
        if not attempt.is_live and not (attempt.status == "unresponsive" and attempt.rollout in self.queue):
            return False
        attempt.status = "running"
        self._dequeue(attempt.rollout, "running")
        return True

    def set_status(self, rollout: ReferenceRollout, status: str) -> None:
        if status == rollout.status:
            return
        if rollout.status in FINAL:
            raise ExpectedError("FinalStatus")
        attempt = rollout.attempts[-1] if rollout.attempts and rollout.attempts[-1].is_live else None
        if status in ("queuing", "requeuing"):
            if rollout in self.queue:
                return
            self._requeue(rollout, status)
        elif status in FINAL:
            self._dequeue(rollout, status)
        elif status == "running" and attempt:
            attempt.status = "running"
            self._dequeue(rollout, status)
            return
        else:
            raise ExpectedError("Conflict")
        if attempt:
            attempt.status = "succeeded" if status == "succeeded" else "failed"

    def add_span(self, attempt: ReferenceAttempt, number: int, sequence_id: int) -> int | None:
        if number in attempt.spans:
            return None
        is_late = not self.heartbeat(attempt)
        sequence_id = sequence_id or attempt.last_sequence_id + 1
        attempt.last_sequence_id = max(attempt.last_sequence_id, sequence_id)
        attempt.spans[number] = (sequence_id, is_late)
        return sequence_id

    def update_resources(self, name: str) -> tuple[str, int]:
        self.resources.append((name, 1 + sum(each == name for each, _ in self.resources)))
        return self.resources[-1]

    def hold_lease(self, holder: str, seconds: float) -> str:
        if self.lease_holder not in (None, holder):
            return self.lease_holder
        self.lease_holder = holder if seconds else None
        return holder

    @property
    def attempts(self) -> list[ReferenceAttempt]:
        return [attempt for rollout in self.rollouts for attempt in rollout.attempts]

    def busy_workers(self) -> set[str]:
        return {attempt.worker for attempt in self.attempts if attempt.is_live and attempt.worker}

    def statistics(self) -> dict[str, Any]:
        statuses = [rollout.status for rollout in self.rollouts]
        return {
            "rollouts": {status: statuses.count(status) for status in set(statuses)},
            "attempts": len(self.attempts),
            "spans": sum(len(attempt.spans) for attempt in self.attempts),
            "queue_depth": len(self.queue),
        }

    def _requeue(self, rollout: ReferenceRollout, status: str) -> None:
        rollout.status = status
        self.queue.append(rollout)

    def _dequeue(self, rollout: ReferenceRollout, status: str) -> None:
        rollout.status = status
        if rollout in self.queue:
            self.queue.remove(rollout)
