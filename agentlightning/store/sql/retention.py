"""Retention: deletion of rollouts by the time since they ended."""

from __future__ import annotations

from ..db.database import Transaction
from .base import SqlBase


class Retention(SqlBase):
    """Deletion of old rollouts, on request only; the store deletes nothing else."""

    async def count_ended_before(self, moment: float) -> int:
        """Return the number of rollouts that ended before `moment`, in seconds since the epoch."""
        return (await self._fetch("SELECT count(*) FROM rollouts WHERE end_time < ?1", moment))[0][0]

    async def delete_ended_before(self, moment: float, most: int) -> int:
        """Delete up to `most` rollouts that ended before `moment`, with attempts and spans; return their number."""

        async def body(transaction: Transaction) -> int:
            found = await transaction.fetch(
                "SELECT rollout_id FROM rollouts WHERE end_time < ?1 ORDER BY end_time LIMIT ?2", moment, most
            )
            if found:
                condition, ids = self._database.dialect.any_of([row[0] for row in found], 1)
                for table in ("spans", "attempts", "rollouts"):
                    await transaction.execute(f"DELETE FROM {table} WHERE rollout_id {condition}", *ids)
                # SQLite assigns the ordinals of the newest spans again after they are deleted.
                await transaction.execute(
                    "UPDATE exports SET ordinal = (SELECT coalesce(max(ordinal), 0) FROM spans) "
                    "WHERE ordinal > (SELECT coalesce(max(ordinal), 0) FROM spans)"
                )
            return len(found)

        return await self._database.write(body)
