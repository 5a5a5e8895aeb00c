"""The store's contract as SQL transactions, shared by all databases."""

from __future__ import annotations

from ..contract import Capabilities, Statistics
from ..db.database import Transaction
from .attempts import Attempts
from .idempotency import delete_expired_responses
from .leases import Leases
from .otlp import OtlpQueries
from .queue import Queue
from .resources import Resources
from .retention import Retention
from .rollouts import Rollouts
from .spans import Spans
from .summary import Summaries
from .workers import Workers

__all__ = ["SqlStore"]


class SqlStore(Retention, Queue, Rollouts, Attempts, Resources, Spans, OtlpQueries, Workers, Leases, Summaries):
    """The store over one `Database`. The stores of `factory.py` come with one."""

    async def statistics(self) -> Statistics:
        async def body(transaction: Transaction) -> Statistics:
            async def count(table: str) -> int:
                return (await transaction.fetch(f"SELECT count(*) FROM {table}"))[0][0]

            async def by_status(table: str) -> dict[str, int]:
                found = await transaction.fetch(f"SELECT status, count(*) FROM {table} GROUP BY status")
                return {row[0]: row[1] for row in found}

            return Statistics(
                rollouts=await by_status("rollouts"),
                attempts=await count("attempts"),
                spans=await count("spans"),
                resources=await count("resources"),
                workers=await by_status("workers"),
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
        """Failures that acknowledged changes survive: `full` a power cut, `process` a process exit, `none` neither."""
        return self._database.durability

    def release_waiters(self) -> None:
        """End all long polls now with their current results; clients repeat them, on another server or later."""
        self._database.signals.release()

    async def close(self) -> None:
        await self._database.close()

    async def expire_overdue(self) -> int:
        """Mark silent workers and end the attempts whose deadline has passed; called by the store's timers."""
        await self.mark_silent_workers_unknown()
        return await self.expire_overdue_attempts()

    async def prune(self) -> None:
        """Delete stored responses that are too old for a retry; called by the store's timers."""
        while await self._database.write(
            lambda transaction: delete_expired_responses(transaction, self._clock.lease())
        ):
            pass
