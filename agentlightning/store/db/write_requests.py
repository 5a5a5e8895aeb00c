"""Write requests: transaction bodies on their way to a writer, and the results on their way back to the callers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ...errors import StoreBusy
from .database import Body, ConflictKey

MAX_PENDING_WRITES = 20_000
"""Bodies waiting for the writer; beyond this the store reports that it is busy."""


@dataclass(eq=False)
class WriteRequest:
    """A transaction body and its result."""

    body: Body[Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    key: str | None = None
    """The idempotency key that the body looks up."""
    conflict_key: ConflictKey | None = None
    """The only part of the store that the body changes, if there is one."""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Counter increments to apply after the commit."""
    result: Any = None
    error: BaseException | None = None

    @classmethod
    def create(
        cls, body: Body[Any], pending: int = 0, key: str | None = None, conflict_key: ConflictKey | None = None
    ) -> WriteRequest:
        """Create a request of a caller in the running loop. Raises `StoreBusy` when too many are pending."""
        if pending > MAX_PENDING_WRITES:
            raise StoreBusy()
        loop = asyncio.get_running_loop()
        return cls(body, loop, loop.create_future(), key, conflict_key)

    def resolve(self) -> None:
        """Set the caller's future; called in the caller's loop."""
        if self.future.done():  # the caller was cancelled
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def deliver_results(group: Sequence[WriteRequest], counters: Counter[str]) -> None:
    """Add up the counts of a finished group and resolve its callers, from any thread, with one call per loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[WriteRequest]] = {}
    for request in group:
        if request.counts and request.error is None:
            counters.update(request.counts)
        by_loop.setdefault(request.loop, []).append(request)
    for loop, requests in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_resolve, requests)


def _resolve(requests: Sequence[WriteRequest]) -> None:
    for request in requests:
        request.resolve()
