"""Operations on the task queue: enqueue rollouts, claim them, and wait until a rollout can be claimed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, TypeVar, cast

from ... import payload
from ...errors import InvalidInput
from ...types import AttemptedRollout, EnqueueRolloutRequest, Rollout, RolloutConfig, RolloutMode
from ..db.database import NEW_ROLLOUTS, QUEUE_HEAD, Body, Transaction
from ..db.signals import QUEUE
from . import rows
from .base import SqlBase, check_worker_id
from .query import count_fitting
from .resources import resolve_version
from .transitions import TAIL

T = TypeVar("T")

MOST_CLAIMED = 10_000
"""Maximum number of rollouts per claim, to limit memory use.

All claimed rollouts are held in memory, and one SQL statement may read the rollouts for several claims.
"""


class Queue(SqlBase):
    """Operations on the queue, which consists of the rows in the table `rollouts` that have a `queue_position`."""

    async def start_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> AttemptedRollout:
        request = _NewRollout(input, mode, resources_id, config, metadata)
        check_worker_id(worker_id)

        async def body(transaction: Transaction) -> AttemptedRollout:
            (rollout,) = await self._insert(transaction, [request], "NULL")
            transitions = self._transitions(transaction)
            (begun,) = await transitions.begin([(await transitions.rollout_row(rollout.rollout_id), 0)], worker_id)
            return begun

        return await self._write(body, NEW_ROLLOUTS)

    async def enqueue_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Rollout:
        request = _NewRollout(input, mode, resources_id, config, metadata)

        async def body(transaction: Transaction) -> Rollout:
            return (await self._enqueue(transaction, [request]))[0]

        return await self._write(body, NEW_ROLLOUTS)

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> list[Rollout]:
        requests = [_NewRollout(**each.__dict__) for each in rollouts]

        async def body(transaction: Transaction) -> list[Rollout]:
            return await self._enqueue(transaction, requests)

        return await self._write(body, NEW_ROLLOUTS)

    async def dequeue_rollout(self, worker_id: str | None = None, wait: float = 0.0) -> AttemptedRollout | None:
        async def one(transaction: Transaction) -> AttemptedRollout | None:
            claimed = await self._claim(transaction, 1, worker_id)
            return claimed[0] if claimed else None

        check_worker_id(worker_id)
        return await self._claim_or_wait(one, wait)

    async def dequeue_many_rollouts(
        self, *, limit: int = 1, worker_id: str | None = None, wait: float = 0.0, max_bytes: int | None = None
    ) -> list[AttemptedRollout]:
        """Claim rollouts as the contract's operation does.

        If `max_bytes` is set, claim only as many rollouts as fit in it, but at least one.
        """

        async def many(transaction: Transaction) -> list[AttemptedRollout]:
            most = min(limit, MOST_CLAIMED)
            if max_bytes is not None and most > 1:
                sizes = await transaction.fetch(_QUEUED_SIZES, most)
                most = max(1, count_fitting([row[0] for row in sizes], max_bytes))
            return await self._claim(transaction, most, worker_id)

        check_worker_id(worker_id)
        if limit < 0:
            raise InvalidInput("limit cannot be negative", field="limit")
        return await self._claim_or_wait(many, wait) if limit else []

    async def _enqueue(self, transaction: Transaction, requests: Sequence[_NewRollout]) -> list[Rollout]:
        enqueued = list[Rollout]()
        for _, group in groupby(requests, lambda request: request.resources_id):
            enqueued += await self._insert(transaction, list(group), TAIL)
        for rollout in enqueued:
            transaction.notify(QUEUE, 1)
            transaction.notify(("rollout", rollout.rollout_id))
        return enqueued

    async def _insert(self, transaction: Transaction, requests: Sequence[_NewRollout], position: str) -> list[Rollout]:
        """Insert rollouts that all use the same resources. `position` is a SQL expression for the queue position."""
        resources_id = requests[0].resources_id
        version = () if resources_id is None else await resolve_version(transaction, resources_id)
        sql = _INSERT[resources_id is None].format(position=position)
        now, inserted = self._clock.now(), dict[int, Rollout]()
        while missing := [index for index in range(len(requests)) if index not in inserted]:
            # If a rollout's random id was already in use, insert the rollout again with a new id. This is rare: the
            # ids have 48 random bits, so a collision is expected only once in millions of rollouts.
            columns = [requests[index].columns(now) for index in missing]
            found = await transaction.fetch_each(sql, [(*each, *version) for each in columns])
            for index, each, returned in zip(missing, columns, found, strict=True):
                for _, resources_id, resources_version in returned:
                    inserted[index] = _as_rollout(each, resources_id, resources_version)
        return [inserted[index] for index in range(len(requests))]

    async def _claim_or_wait(self, claim: Body[T], wait: float) -> T:
        """Run `claim`. If it does not find a rollout, repeat it until it finds one or `wait` seconds have passed."""
        if wait <= 0:
            return await self._claim_unless_cancelled(claim)
        deadline = time.monotonic() + wait
        with self._database.signals.listen(QUEUE) as waiter:
            while True:
                claimed = await self._claim_unless_cancelled(claim)
                left = deadline - time.monotonic()
                if claimed or left <= 0 or waiter.released:
                    return claimed
                await waiter.wait(left)

    async def _claim_unless_cancelled(self, claim: Body[T]) -> T:
        """Run `claim`, and return the claimed rollouts to the queue if the caller is cancelled in the meantime."""
        claiming = asyncio.ensure_future(self._write(claim, QUEUE_HEAD))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claimed = await _finish_despite_cancellation(claiming)
            if claimed:
                await _finish_despite_cancellation(asyncio.ensure_future(self._undo(claimed)))
            raise

    async def _claim(self, transaction: Transaction, limit: int, worker_id: str | None) -> list[AttemptedRollout]:
        transitions = self._transitions(transaction)
        queued = await transitions.next_queued(limit)
        if not queued and worker_id is not None:
            await transaction.execute(
                "INSERT INTO workers (worker_id, status, last_dequeue_time) VALUES (?1, 'idle', ?2) "
                "ON CONFLICT (worker_id) DO NOTHING",
                worker_id,
                self._clock.now(),
            )
        return await transitions.begin([(row, row[-1]) for row in queued], worker_id)

    async def _undo(self, claimed: Any) -> None:
        rollouts = cast("list[AttemptedRollout]", claimed if isinstance(claimed, list) else [claimed])
        request = self.request

        async def body(transaction: Transaction) -> None:
            if request and not await transaction.revoke_response(request.key, request.time):
                return  # the client has repeated the request in the meantime and received the claimed rollouts
            for rollout in rollouts:
                await _undo_claim(transaction, rollout)

        await self._database.write(body)


def _insert_sql(resources: str) -> str:
    return (
        "INSERT INTO rollouts (rollout_id, input, start_time, mode, config, metadata, status, attempts, "
        "resources_id, resources_version, queue_position) "
        f"VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'queuing', 0, {resources}, {{position}}) "
        "ON CONFLICT (rollout_id) DO NOTHING RETURNING rollout_id, resources_id, resources_version"
    )


_QUEUED_SIZES = (
    f"SELECT {rows.ROLLOUT_SIZE} FROM rollouts r WHERE queue_position IS NOT NULL "
    "ORDER BY queue_position, ordinal LIMIT ?1"
)
_LATEST = "(SELECT {} FROM resources ORDER BY ordinal DESC LIMIT 1)"
_INSERT = {
    True: _insert_sql(f"{_LATEST.format('resources_id')}, {_LATEST.format('version')}"),
    False: _insert_sql("?7, ?8"),
}
"""SQL statements that insert one rollout.

`_INSERT[True]` uses the latest resources, and `_INSERT[False]` uses the resources that are passed as `?7` and `?8`.
"""


_Columns = tuple[str, bytes, float, RolloutMode | None, bytes, bytes]


class _NewRollout:
    """A rollout to insert. It is encoded only once, even if the transaction body runs several times."""

    def __init__(
        self,
        input: Any,
        mode: RolloutMode | None,
        resources_id: str | None,
        config: RolloutConfig | None,
        metadata: dict[str, Any] | None,
    ) -> None:
        if mode not in (None, "train", "val", "test"):
            raise InvalidInput(f"mode must be 'train', 'val', 'test' or None, not {mode!r}", field="mode")
        self.input_json = payload.dumps_unchecked(input, field="input")
        self.mode: RolloutMode | None = mode
        self.resources_id = resources_id
        self.config_json = rows.NO_CONFIG if config is None else rows.config_json(config)
        self.metadata_json = payload.dumps_unchecked(metadata, field="metadata") if metadata else b"{}"

    def columns(self, now: float) -> _Columns:
        """Return the parameters `?1` to `?6` for `_INSERT`. Each call creates a new random rollout id."""
        return rows.new_id("ro", 12), self.input_json, now, self.mode, self.config_json, self.metadata_json


def _as_rollout(columns: _Columns, resources_id: str | None, version: int | None) -> Rollout:
    rollout_id, input_json, start_time, mode, config_json, metadata_json = columns
    row = (rollout_id, input_json, start_time, None, mode, resources_id, version, "queuing")
    return rows.rollout((*row, config_json, metadata_json, None))


async def _undo_claim(transaction: Transaction, rollout: AttemptedRollout) -> None:
    """If a claimed attempt is still preparing, delete it and return its rollout to the head of the queue."""
    deleted = await transaction.fetch(
        "DELETE FROM attempts WHERE rollout_id = ?1 AND attempt_id = ?2 AND status = 'preparing' RETURNING sequence_id",
        rollout.rollout_id,
        rollout.attempt.attempt_id,
    )
    if not deleted:
        return
    earlier = await transaction.fetch(
        "SELECT attempt_id, sequence_id FROM attempts WHERE rollout_id = ?1 ORDER BY sequence_id DESC LIMIT 1",
        rollout.rollout_id,
    )
    attempt_id, attempts = earlier[0] if earlier else (None, 0)
    await transaction.execute(
        "UPDATE rollouts SET status = ?2, attempt_id = ?3, attempts = ?4, queue_position = "
        "(SELECT coalesce(min(queue_position), 1) - 1 FROM rollouts WHERE queue_position IS NOT NULL) "
        "WHERE rollout_id = ?1",
        rollout.rollout_id,
        "requeuing" if earlier else "queuing",
        attempt_id,
        attempts,
    )
    transaction.notify(QUEUE, 1)
    transaction.notify(("rollout", rollout.rollout_id))


async def _finish_despite_cancellation(future: asyncio.Future[T]) -> T | None:
    """Wait for `future`, even if the caller is cancelled. Return its result, or None if it failed or was cancelled."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    return None if future.cancelled() or future.exception() else future.result()
