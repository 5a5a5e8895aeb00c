"""Write requests: transaction bodies on their way to a writer, and the results on their way back to the callers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .database import Body, ConflictKey

MAX_PENDING_WRITES = 20_000
"""Bodies waiting for the writer; beyond this a write raises `StoreBusy`."""


@dataclass(eq=False)
class WriteRequest:
    """A transaction body and its result."""

    body: Body[Any]
    future: asyncio.Future[Any]
    """Belongs to the caller's loop."""
    key: str | None = None
    """The idempotency key that the body looks up."""
    conflict_key: ConflictKey | None = None
    """The only part of the store that the body changes, if there is one."""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Counter increments to apply after the commit."""
    result: Any = None
    error: BaseException | None = None

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
        by_loop.setdefault(request.future.get_loop(), []).append(request)
    for loop, requests in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_resolve, requests)


def _resolve(requests: Sequence[WriteRequest]) -> None:
    for request in requests:
        request.resolve()
