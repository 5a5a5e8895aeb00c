"""Wall time for timestamps and lease time for deadlines.

Lease time is monotonic and stops while no store is open. A wall clock that jumps by a day neither expires nor extends
a lease, and attempts do not all expire after the store was closed for an hour.
"""

from __future__ import annotations

import time


class Clock:
    """Wall time and lease time, both in seconds."""

    def __init__(self) -> None:
        self._offset = -time.monotonic()

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return time.time()

    def lease(self) -> float:
        """Return the seconds during which the store has been open."""
        return time.monotonic() + self._offset

    def resume(self, lease: float) -> None:
        """Continue from the lease time at which the store was closed."""
        self._offset = lease - time.monotonic()

    def catch_up(self, lease: float) -> None:
        """Advance to the lease time of another server of the store, if that is ahead."""
        self._offset = max(self._offset, lease - time.monotonic())
