"""A store of a few dicts and lists, written from the published rules: what a real one must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from agentlightning.types import RolloutConfig

FINAL = ("succeeded", "failed", "cancelled")
ENDED = ("succeeded", "failed", "timeout")
LIVE = ("preparing", "running")


class Refused(Exception):
    """The store must refuse this with the error of this name."""


@dataclass(eq=False)
class Try:
    """An attempt."""

    name: int
    worker: str | None
    status: str = "preparing"
    spans: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """By number of the span: its place, and whether it came late."""
    last: int = 0

    @property
    def live(self) -> bool:
        return self.status in LIVE


@dataclass(eq=False)
class Job:
    """A rollout."""

    name: int
    config: RolloutConfig
    resources: tuple[str, int] | None
    status: str = "queuing"
    tries: list[Try] = field(default_factory=list)


class Reference:
    """What the store holds, and what follows what."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.queue: list[Job] = []
        self.resources: list[tuple[str, int]] = []
        self.holder: str | None = None
        """Of the one lease there is."""
        self.lost: set[str | None] = set()
        """Workers that have not been heard of: whether they hold anything, nobody knows."""
        self._names = count()

    def enqueue(self, config: RolloutConfig) -> Job:
        job = Job(next(self._names), config, self.resources[-1] if self.resources else None)
        self.jobs.append(job)
        self.queue.append(job)
        return job

    def begin(self, job: Job, worker: str | None = None) -> Try:
        if job.status in FINAL:
            raise Refused("FinalStatus")
        self._leave(job, "preparing")
        if job.tries and job.tries[-1].live:
            job.tries[-1].status = "failed"
        job.tries.append(Try(next(self._names), worker))
        return job.tries[-1]

    def report(self, job: Job, it: Try, status: str) -> None:
        if it is not job.tries[-1]:
            raise Refused("StaleAttempt")
        if job.status in FINAL or it.status in ENDED:
            raise Refused("FinalStatus")
        if status == it.status:
            return
        if status == "preparing":
            raise Refused("Conflict")
        it.status = status
        if status == "unresponsive":
            self.lost.add(it.worker)
        if status in ("running", "succeeded"):
            self._leave(job, status)
        elif job not in self.queue:
            again = status in job.config.retry_condition and len(job.tries) < job.config.max_attempts
            self._join(job, "requeuing") if again else self._leave(job, "failed")

    def sign_of_life(self, job: Job, it: Try) -> bool:
        """Whether anybody still listens to this attempt."""
        if it is not job.tries[-1] or job.status in FINAL:
            return False
        if not it.live and not (it.status == "unresponsive" and job in self.queue):
            return False
        it.status = "running"
        self._leave(job, "running")
        return True

    def set_status(self, job: Job, to: str) -> None:
        if to == job.status:
            return
        if job.status in FINAL:
            raise Refused("FinalStatus")
        it = job.tries[-1] if job.tries and job.tries[-1].live else None
        if to in ("queuing", "requeuing"):
            if job in self.queue:
                return
            self._join(job, to)
        elif to in FINAL:
            self._leave(job, to)
        elif to == "running" and it:
            it.status = "running"
            self._leave(job, to)
            return
        else:
            raise Refused("Conflict")
        if it:
            it.status = "succeeded" if to == "succeeded" else "failed"

    def add_span(self, job: Job, it: Try, number: int, place: int) -> int | None:
        if number in it.spans:
            return None
        late = not self.sign_of_life(job, it)
        place = place or it.last + 1
        it.last = max(it.last, place)
        it.spans[number] = (place, late)
        return place

    def update_resources(self, name: str) -> tuple[str, int]:
        self.resources.append((name, 1 + sum(each == name for each, _ in self.resources)))
        return self.resources[-1]

    def hold_lease(self, holder: str, seconds: float) -> str:
        if self.holder not in (None, holder):
            return self.holder
        self.holder = holder if seconds else None
        return holder

    def busy(self) -> set[str]:
        return {it.worker for job in self.jobs for it in job.tries if it.live and it.worker}

    def statistics(self) -> dict[str, Any]:
        statuses = [job.status for job in self.jobs]
        return {
            "rollouts": {status: statuses.count(status) for status in set(statuses)},
            "attempts": sum(len(job.tries) for job in self.jobs),
            "spans": sum(len(it.spans) for job in self.jobs for it in job.tries),
            "queue_depth": len(self.queue),
        }

    def _join(self, job: Job, status: str) -> None:
        job.status = status
        self.queue.append(job)

    def _leave(self, job: Job, status: str) -> None:
        job.status = status
        if job in self.queue:
            self.queue.remove(job)
