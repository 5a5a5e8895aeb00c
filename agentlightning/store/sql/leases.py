"""Leases: named locks that their holder renews, and that expire otherwise."""

from __future__ import annotations

from typing import Any

from ... import payload
from ...errors import InvalidInput
from ..contract import Lease
from ..db.database import Row, Transaction
from . import rows
from .base import SqlBase


class Leases(SqlBase):
    """Operations on leases."""

    async def hold_lease(
        self, name: str, holder: str, seconds: float = 30.0, about: dict[str, Any] | None = None
    ) -> Lease:
        payload.check_id(name, "name")
        payload.check_id(holder, "holder")
        if not 0 <= seconds <= 86_400:
            raise InvalidInput("a lease is held for 0 to 86400 seconds at a time", field="seconds")
        about_json = rows.json_or_null(about, "about")

        async def body(transaction: Transaction) -> Lease:
            now, lease = self._clock.now(), self._clock.lease()
            # Inserted first: of two concurrent calls on different servers, the second waits for the first.
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


def _as_lease(row: Row, lease: float) -> Lease:
    holder, about, since, seen, expires = row
    seconds_left = max(0.0, expires - lease)
    return Lease(holder=holder, about=rows.json(about), since=since, seen=seen, seconds_left=seconds_left)
