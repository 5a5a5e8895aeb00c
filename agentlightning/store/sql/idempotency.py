"""Idempotent mutations: the response is stored under the caller's key, in the same commit as the change.

A caller that never saw the response may repeat the call, even to a store that was killed in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..db.database import Transaction

KEPT_SECONDS = 3_600.0
"""Measured on the store's own clock: while the store is closed, no call can be repeated."""

DELETED_PER_TRANSACTION = 1_000
"""Other writers wait for such a transaction, some milliseconds."""


@dataclass(slots=True)
class IdempotentRequest:
    """A mutation that its caller may repeat under the same key."""

    key: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    response: bytes | None = None
    """The stored response, once there is one."""
    time: float = 0.0
    """Lease time at which this call stored the response."""

    def replay(self, response: bytes) -> Any:
        """Take the stored response of an earlier call, and return its result."""
        self.response = response
        return self.decode(response)


async def delete_expired_responses(transaction: Transaction, lease: float) -> bool:
    """Delete some responses that are too old to be asked for; return False when none are left."""
    expired = "SELECT key FROM answers WHERE time < ?1 ORDER BY time LIMIT ?2"
    deleted = await transaction.fetch(
        f"DELETE FROM answers WHERE key IN ({expired}) RETURNING 1", lease - KEPT_SECONDS, DELETED_PER_TRANSACTION
    )
    return len(deleted) == DELETED_PER_TRANSACTION
