"""Two times: wall time, which people read, and lease time, which decides.

Lease time is monotonic, and stands still while no store is open: a wall clock that jumps by a day neither expires nor
prolongs a lease, and a store that was away for an hour does not give up every runner at once.
"""

from __future__ import annotations

import time


class Clock:
    """Tells wall time and lease time, both in seconds."""

    def __init__(self) -> None:
        self._offset = -time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def lease(self) -> float:
        """Seconds of the store's own life."""
        return time.monotonic() + self._offset

    def resume(self, lease: float) -> None:
        """Go on from a lease time that an earlier life of the store reached."""
        self._offset = lease - time.monotonic()

    def catch_up(self, lease: float) -> None:
        """Never be behind another server's clock: where several share leases, the one furthest ahead leads."""
        self._offset = max(self._offset, lease - time.monotonic())
