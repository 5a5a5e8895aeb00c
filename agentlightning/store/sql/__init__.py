"""The implementation of the store's contract in SQL, shared by SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

from ... import payload
from ...errors import InvalidInput
from ..db.database import Row, Transaction
from ..results import Capabilities, Lease, Statistics
from . import rows
from .attempts import Attempts
from .queue import Queue
from .resources import Resources
from .rollouts import Rollouts
from .spans import Spans
from .summary import Summaries, count_by_status

__all__ = ["SqlStore"]

RESPONSE_SECONDS = 3_600.0
"""Time in seconds for which the store keeps the response to a request, in case the client repeats the request.

Measured in lease time (see `Clock` in `base.py`), which does not advance while the store is closed.
"""
DELETED_PER_TRANSACTION = 1_000
"""Maximum number of responses to delete in one transaction. A transaction delays other writes by milliseconds."""


class SqlStore(Queue, Rollouts, Attempts, Resources, Spans, Summaries):
    """The complete store. Adds statistics, leases and deletion to the operations from this package's other modules."""

    async def statistics(self) -> Statistics:
        async def body(transaction: Transaction) -> Statistics:
            async def count(table: str) -> int:
                return (await transaction.fetch(f"SELECT count(*) FROM {table}"))[0][0]

            return Statistics(
                rollouts=await count_by_status(transaction, "rollouts"),
                attempts=await count("attempts"),
                spans=await count("spans"),
                resources=await count("resources"),
                workers=await count_by_status(transaction, "workers"),
                queue_depth=await count("rollouts WHERE queue_position IS NOT NULL"),
            )

        return await self._database.read(body)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            durable=self._database.durable, thread_safe=True, async_safe=True, zero_copy=True, otlp_traces=False
        )

    @property
    def durability(self) -> str:
        """Durability of acknowledged changes: `full`, `process` or `none`.

        With `full`, changes survive a power failure. With `process`, they survive the end of the process, but not
        a power failure. With `none`, they are lost when the process ends.
        """
        return self._database.durability

    async def check_ready(self) -> None:
        """Raise `StoreUnavailable` unless the database responds and its files have not been deleted or replaced."""
        self._database.check_files()
        await self._database.fetch("SELECT 1", short=True)

    def release_waiters(self) -> None:
        """Make all waiting calls (long polls) return their current results immediately.

        Called when a server stops. Clients then repeat the calls, on another server or after a restart.
        """
        self._database.signals.release()

    async def close(self) -> None:
        await self._database.close()

    # Leases

    async def hold_lease(
        self, name: str, holder: str, seconds: float = 30.0, about: dict[str, Any] | None = None
    ) -> Lease:
        payload.check_id(name, "name")
        payload.check_id(holder, "holder")
        if not 0 <= seconds <= 86_400:
            raise InvalidInput("the duration of a lease must be between 0 and 86400 seconds", field="seconds")
        about_json = rows.json_or_null(about, "about")

        async def body(transaction: Transaction) -> Lease:
            now, lease = self._clock.now(), self._clock.lease()
            # Insert a row first: if two servers request the lease concurrently, this makes the second server wait until
            # the first one commits.
            await transaction.execute(
                "INSERT INTO leases (name, holder, about, since, seen, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6) "
                "ON CONFLICT (name) DO NOTHING",
                *(name, holder, about_json, now, now, lease + seconds),
            )
            current = await self._lease(transaction, name)
            if current[0] != holder and current[4] > lease:
                return _as_lease(current, lease)
            since = current[2] if current[0] == holder else now
            await transaction.execute(
                "UPDATE leases SET holder = ?2, about = ?3, since = ?4, seen = ?5, expires = ?6 WHERE name = ?1",
                *(name, holder, about_json or current[1], since, now, lease + seconds),
            )
            renewed = _as_lease(await self._lease(transaction, name), lease)
            if seconds == 0:
                await transaction.execute("DELETE FROM leases WHERE name = ?1", name)
            return renewed

        return await self._write(body)

    async def _lease(self, transaction: Transaction, name: str) -> Row:
        lock = self._database.dialect.for_update
        sql = f"SELECT holder, about, since, seen, expires FROM leases WHERE name = ?1{lock}"
        return (await transaction.fetch(sql, name))[0]

    # Deletion

    async def count_ended_before(self, moment: float) -> int:
        """Return the number of rollouts that ended before `moment` (in seconds since the epoch)."""
        return (await self._database.fetch("SELECT count(*) FROM rollouts WHERE end_time < ?1", moment))[0][0]

    async def delete_ended_before(self, moment: float, most: int) -> int:
        """Delete up to `most` rollouts that ended before `moment`, along with their attempts and spans.

        `moment` is in seconds since the epoch. The rollouts that ended first are deleted first. Return the number of
        deleted rollouts.
        """

        async def body(transaction: Transaction) -> int:
            found = await transaction.fetch(
                "SELECT rollout_id FROM rollouts WHERE end_time < ?1 ORDER BY end_time LIMIT ?2", moment, most
            )
            if found:
                condition, ids = self._database.dialect.any_of([row[0] for row in found], 1)
                for table in ("spans", "attempts", "rollouts"):
                    await transaction.execute(f"DELETE FROM {table} WHERE rollout_id {condition}", *ids)
                # `exports` contains the ordinal of the last span exported to each OTLP target. If the newest spans are
                # deleted, SQLite assigns their ordinals to new spans. Without this update, the export would skip these
                # new spans.
                await transaction.execute(
                    "UPDATE exports SET ordinal = (SELECT coalesce(max(ordinal), 0) FROM spans) "
                    "WHERE ordinal > (SELECT coalesce(max(ordinal), 0) FROM spans)"
                )
            return len(found)

        return await self._database.write(body)

    async def prune(self) -> None:
        """Delete the responses that were stored more than `RESPONSE_SECONDS` ago. The store calls this periodically."""
        while await self._database.write(self._delete_expired_responses):
            pass

    async def _delete_expired_responses(self, transaction: Transaction) -> bool:
        """Delete up to `DELETED_PER_TRANSACTION` expired responses. Return True if more of them may remain."""
        expired = "SELECT key FROM answers WHERE time < ?1 ORDER BY time LIMIT ?2"
        sql = f"DELETE FROM answers WHERE key IN ({expired}) RETURNING 1"
        before = self._clock.lease() - RESPONSE_SECONDS
        return len(await transaction.fetch(sql, before, DELETED_PER_TRANSACTION)) == DELETED_PER_TRANSACTION


def _as_lease(row: Row, lease: float) -> Lease:
    holder, about, since, seen, expires = row
    seconds_left = max(0.0, expires - lease)
    return Lease(holder=holder, about=rows.json(about), since=since, seen=seen, seconds_left=seconds_left)
