"""Bodies of transactions on their way through a writer, and their results back to the loops they came from."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ...errors import StoreBusy
from .database import Body, Place

MOST_WAITING = 20_000
"""Bodies that wait for a writer; a store that is so far behind says so, and takes no more."""


@dataclass(eq=False)
class Job:
    """A body, and what came of it."""

    body: Body[Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    key: str | None = None
    """Whose answer the body will look for."""
    place: Place | None = None
    """Where it does its work."""
    counted: Mapping[str, int] = field(default_factory=dict[str, int])
    """What the body has counted, to be added up once it is committed."""
    result: Any = None
    error: BaseException | None = None

    @classmethod
    def of(cls, body: Body[Any], waiting: int = 0, key: str | None = None, place: Place | None = None) -> Job:
        """`body`, for whoever calls from the running loop. Raises `StoreBusy` where too many wait already."""
        if waiting > MOST_WAITING:
            raise StoreBusy()
        loop = asyncio.get_running_loop()
        return cls(body, loop, loop.create_future(), key, place)

    def settle(self) -> None:
        """Tell the caller; in the loop it came from."""
        if self.future.done():  # its caller was cancelled
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def add_up(group: Sequence[Job], counters: Counter[str]) -> None:
    """Count what the bodies of a committed group have counted."""
    for job in group:
        if job.counted and job.error is None:
            counters.update(job.counted)


def deliver(group: Sequence[Job]) -> None:
    """Tell the callers of a group, from any thread; one message for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in group:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        with suppress(RuntimeError):  # the loop has closed: nobody listens there any more
            loop.call_soon_threadsafe(_settle, jobs)


def _settle(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.settle()
