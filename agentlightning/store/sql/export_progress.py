"""How far others have been told of the spans: one place for each target, which outlives the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..db.database import Row, Transaction
from .base import SqlBase


class Horizon(NamedTuple):
    """The newest span there was at a moment, and how to tell when none can slip in before it any more."""

    ordinal: int
    transaction: int


class Exports(SqlBase):
    """What is asked by those who pass spans on."""

    async def begin_export(self, target: str, *, past: bool) -> None:
        """Make a place for a target that is new: before the first span, or without `past` behind the newest."""

        async def body(transaction: Transaction) -> None:
            first = "0" if past else "(SELECT coalesce(max(ordinal), 0) FROM spans)"
            await transaction.execute(
                f"INSERT INTO exports (target, ordinal) VALUES (?1, {first}) ON CONFLICT (target) DO NOTHING", target
            )

        await self._database.write(body)

    async def exported_up_to(self, target: str) -> int:
        """The ordinal of the last span that a target knows."""
        return (await self._fetch("SELECT ordinal FROM exports WHERE target = ?1", target, brief=True))[0][0]

    async def note_exported(self, target: str, ordinal: int, payload: bytes) -> int:
        """The target knows all spans up to this one; the ordinal of the last that it is known to know.

        That stays as it was where the span was deleted meanwhile: another one may get its ordinal.
        """

        async def body(transaction: Transaction) -> int:
            if await transaction.fetch("SELECT 1 FROM spans WHERE ordinal = ?1 AND payload = ?2", ordinal, payload):
                await transaction.execute("UPDATE exports SET ordinal = ?2 WHERE target = ?1", target, ordinal)
            return (await transaction.fetch("SELECT ordinal FROM exports WHERE target = ?1", target))[0][0]

        return await self._database.write(body)

    async def span_horizon(self) -> Horizon:
        """The newest span now."""
        number = self._database.dialect.transaction_number
        [row] = await self._fetch(f"SELECT coalesce(max(ordinal), 0), {number} FROM spans", brief=True)
        return Horizon(row[0], row[1])

    async def is_settled(self, horizon: Horizon) -> bool:
        """Whether every span up to there can be seen: commits may overtake each other, ordinals do not."""
        [row] = await self._fetch(f"SELECT {self._database.dialect.oldest_transaction}", brief=True)
        return row[0] >= horizon.transaction

    async def spans_between(self, after: int, up_to: int, most: int, most_bytes: int) -> list[tuple[int, bytes]]:
        """The oldest spans between two ordinals, as JSON text: so many, or so many bytes, but one at least."""

        async def body(transaction: Transaction) -> Sequence[Row]:
            sizes = await transaction.fetch(
                "SELECT ordinal, length(payload) FROM spans WHERE ordinal > ?1 AND ordinal <= ?2 "
                "ORDER BY ordinal LIMIT ?3",
                after,
                up_to,
                most,
            )
            return await transaction.fetch(
                "SELECT ordinal, payload FROM spans WHERE ordinal > ?1 AND ordinal <= ?2 ORDER BY ordinal",
                after,
                _last_within(sizes, most_bytes),
            )

        return [(row[0], row[1]) for row in await self._database.read(body)]


def _last_within(sizes: Sequence[Row], most_bytes: int) -> int:
    """The last ordinal before which no more than these bytes stand."""
    last, total = 0, 0
    for ordinal, size in sizes:
        if last and total + size > most_bytes:
            break
        last, total = ordinal, total + size
    return last
