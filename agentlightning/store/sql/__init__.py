"""The contract, as transactions in the SQL that all databases share."""

from __future__ import annotations

from ..contract import Capabilities, Statistics
from ..db.database import Transaction
from .attempts import Attempts
from .export_progress import Exports
from .idempotency import forget_some_old
from .leases import Leases
from .queue import Queue
from .resources import Resources
from .retention import Deleting
from .rollouts import Rollouts
from .spans import Spans
from .summary import Summaries
from .trace_owners import Traces
from .workers import Workers

__all__ = ["SqlStore"]


class SqlStore(Deleting, Queue, Rollouts, Attempts, Resources, Spans, Traces, Exports, Workers, Leases, Summaries):
    """The store over one `Database`. Use the stores of `backends.py`, which bring one along."""

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
        """What an acknowledged change survives: `full` a power cut, `process` the process's end, `none` neither."""
        return self._database.durability

    def release_waiters(self) -> None:
        """Let every long poll end now, with what it has; those who wait ask again, elsewhere or later."""
        self._database.signals.release()

    async def close(self) -> None:
        await self._database.close()

    async def give_up_overdue(self) -> int:
        """End the attempts whose deadline has passed, and note the workers that fell silent. What `Timers` runs."""
        await self.forget_silent_workers()
        return await self.give_up_overdue_attempts()

    async def tidy(self) -> None:
        """Drop what is kept only for a while: answers that nobody will ask for again."""
        while await self._database.write(lambda transaction: forget_some_old(transaction, self._clock.lease())):
            pass
