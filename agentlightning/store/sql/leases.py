"""Leases: what only one may hold at a time, for as long as it says so now and then."""

from __future__ import annotations

from typing import Any

import orjson

from ... import payload
from ...errors import InvalidInput
from ..contract import Lease
from ..db.database import Row, Transaction
from . import rows
from .base import SqlBase


class Leases(SqlBase):
    """Who holds what."""

    async def hold_lease(
        self, name: str, holder: str, seconds: float = 30.0, about: dict[str, Any] | None = None
    ) -> Lease:
        payload.check_id(name, "name")
        payload.check_id(holder, "holder")
        if not 0 <= seconds <= 86_400:
            raise InvalidInput("a lease is held for 0 to 86400 seconds at a time", field="seconds")
        told = rows.json_or_null(about, "about")

        async def body(transaction: Transaction) -> Lease:
            now, lease = self._clock.now(), self._clock.lease()
            # Inserted first, so that of two who ask at once on different servers the second waits for the first.
            await transaction.execute(
                "INSERT INTO leases (name, holder, about, since, seen, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6) "
                "ON CONFLICT (name) DO NOTHING",
                *(name, holder, told, now, now, lease + seconds),
            )
            theirs = await self._lease(transaction, name)
            if theirs[0] != holder and theirs[4] > lease:
                return _lease(theirs, lease)
            await transaction.execute(
                "UPDATE leases SET holder = ?2, about = ?3, since = ?4, seen = ?5, expires = ?6 WHERE name = ?1",
                *(name, holder, told or theirs[1], theirs[2] if theirs[0] == holder else now, now, lease + seconds),
            )
            mine = _lease(await self._lease(transaction, name), lease)
            if seconds == 0:
                await transaction.execute("DELETE FROM leases WHERE name = ?1", name)
            return mine

        return await self._write(body)

    async def _lease(self, transaction: Transaction, name: str) -> Row:
        sql = (
            f"SELECT holder, about, since, seen, expires FROM leases WHERE name = ?1{self._database.dialect.for_update}"
        )
        return (await transaction.fetch(sql, name))[0]


def _lease(row: Row, lease: float) -> Lease:
    holder, about, since, seen, expires = row
    return Lease(
        holder=holder,
        about=None if about is None else orjson.loads(about),
        since=since,
        seen=seen,
        seconds_left=max(0.0, expires - lease),
    )
