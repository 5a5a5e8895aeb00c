"""Into the queue and out of it: enqueue, claim, wait for something to claim."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from itertools import groupby
from typing import Any, TypeVar, cast

from ... import payload
from ...errors import InvalidInput
from ...types import AttemptedRollout, EnqueueRolloutRequest, Rollout, RolloutConfig, RolloutMode
from ..db.database import HEAD, NEW, Body, Transaction
from ..db.signals import QUEUE, news
from . import rows
from .base import SqlBase, check_worker
from .idempotency import asked
from .resources import version_of
from .transitions import TAIL

T = TypeVar("T")

MOST_CLAIMED = 10_000
"""At once: the answer is held in memory, and the limits of claims that gather in a group are added up."""


class Queue(SqlBase):
    """The task queue: the rows of `rollouts` that have a place in it."""

    async def start_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> AttemptedRollout:
        request = _Request(input, mode, resources_id, config, metadata)
        check_worker(worker_id)

        async def body(transaction: Transaction) -> AttemptedRollout:
            (rollout,) = await self._insert(transaction, [request], "NULL")
            moves = self._moves(transaction)
            (begun,) = await moves.begin([(await moves.rollout_row(rollout.rollout_id), 0)], worker_id)
            return begun

        return await self._write(body, NEW)

    async def enqueue_rollout(
        self,
        input: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Rollout:
        request = _Request(input, mode, resources_id, config, metadata)

        async def body(transaction: Transaction) -> Rollout:
            return (await self._enqueue(transaction, [request]))[0]

        return await self._write(body, NEW)

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> list[Rollout]:
        requests = [
            _Request(asked.input, asked.mode, asked.resources_id, asked.config, asked.metadata) for asked in rollouts
        ]

        async def body(transaction: Transaction) -> list[Rollout]:
            return await self._enqueue(transaction, requests)

        return await self._write(body, NEW)

    async def dequeue_rollout(self, worker_id: str | None = None, wait: float = 0.0) -> AttemptedRollout | None:
        async def one(transaction: Transaction) -> AttemptedRollout | None:
            claimed = await self._claim(transaction, 1, worker_id)
            return claimed[0] if claimed else None

        check_worker(worker_id)
        return await self._claim_or_wait(one, wait)

    async def dequeue_many_rollouts(
        self, *, limit: int = 1, worker_id: str | None = None, wait: float = 0.0
    ) -> list[AttemptedRollout]:
        async def many(transaction: Transaction) -> list[AttemptedRollout]:
            return await self._claim(transaction, min(limit, MOST_CLAIMED), worker_id)

        check_worker(worker_id)
        if limit < 0:
            raise InvalidInput("limit cannot be negative", field="limit")
        return await self._claim_or_wait(many, wait) if limit else []

    async def _enqueue(self, transaction: Transaction, requests: Sequence[_Request]) -> list[Rollout]:
        enqueued = list[Rollout]()
        for _, alike in groupby(requests, lambda request: request.resources_id):
            enqueued += await self._insert(transaction, list(alike), TAIL)
        for rollout in enqueued:
            transaction.announce(QUEUE, 1)
            transaction.announce(news("rollout", rollout.rollout_id))
        return enqueued

    async def _insert(self, transaction: Transaction, requests: Sequence[_Request], position: str) -> list[Rollout]:
        """New rollouts, which have the resources they ask for in common."""
        resources_id = requests[0].resources_id
        given = () if resources_id is None else await version_of(transaction, resources_id)
        sql = _INSERT[resources_id is None].format(position=position)
        now, made = self._clock.now(), dict[int, Rollout]()
        while missing := [place for place in range(len(requests)) if place not in made]:
            # More than once now and then, since 48 random bits meet among millions.
            wanted = [requests[place].columns(now) for place in missing]
            inserted = await transaction.fetch_each(sql, [(*columns, *given) for columns in wanted])
            for place, columns, found in zip(missing, wanted, inserted, strict=True):
                for _, resources_id, version in found:
                    made[place] = _made(columns, resources_id, version)
        return [made[place] for place in range(len(requests))]

    async def _claim_or_wait(self, claim: Body[T], wait: float) -> T:
        """Claim now, or when word comes that there is something, until `wait` seconds have passed."""
        if wait <= 0:
            return await self._claim_safely(claim)
        deadline = time.monotonic() + wait
        with self._database.signals.listen(QUEUE) as waiter:
            while True:
                claimed = await self._claim_safely(claim)
                left = deadline - time.monotonic()
                if claimed or left <= 0 or waiter.released:
                    return claimed
                await waiter.wait(left)

    async def _claim_safely(self, claim: Body[T]) -> T:
        """A claim whose caller is cancelled meanwhile goes back to where it was in the queue."""
        claiming = asyncio.ensure_future(self._write(claim, HEAD))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            claimed = await _in_spite_of_cancellation(claiming)
            if claimed:
                await _in_spite_of_cancellation(asyncio.ensure_future(self._give_back(claimed)))
            raise

    async def _claim(self, transaction: Transaction, limit: int, worker_id: str | None) -> list[AttemptedRollout]:
        moves = self._moves(transaction)
        queued = await moves.next_queued(limit)
        if not queued and worker_id is not None:
            await transaction.execute(
                "INSERT INTO workers (worker_id, status, last_dequeue_time) VALUES (?1, 'idle', ?2) "
                "ON CONFLICT (worker_id) DO NOTHING",
                worker_id,
                self._clock.now(),
            )
        return await moves.begin([(row, row[-1]) for row in queued], worker_id)

    async def _give_back(self, claimed: Any) -> None:
        rollouts = cast("list[AttemptedRollout]", claimed if isinstance(claimed, list) else [claimed])
        question = asked.get()

        async def body(transaction: Transaction) -> None:
            if question and not await transaction.take_back_answer(question.key, question.time):
                return  # its caller has asked again meanwhile, and was told
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


_LATEST = "(SELECT {} FROM resources ORDER BY ordinal DESC LIMIT 1)"
_INSERT = {
    True: _insert_sql(f"{_LATEST.format('resources_id')}, {_LATEST.format('version')}"),
    False: _insert_sql("?7, ?8"),
}
"""A new rollout in one statement; with the latest resources, or with those given."""


_Columns = tuple[str, bytes, float, RolloutMode | None, bytes, bytes]


class _Request:
    """A rollout to be made, as the columns it will fill."""

    def __init__(
        self,
        input: Any,
        mode: RolloutMode | None,
        resources_id: str | None,
        config: RolloutConfig | None,
        metadata: dict[str, Any] | None,
    ) -> None:
        if mode not in (None, "train", "val", "test"):
            raise InvalidInput(f"mode is 'train', 'val', 'test' or None, not {mode!r}", field="mode")
        self.input_json = payload.dumps(input, field="input")
        self.mode: RolloutMode | None = mode
        self.resources_id = resources_id
        self.config_json = rows.NO_CONFIG if config is None else rows.config_json(config)
        self.metadata_json = payload.dumps(metadata or {}, field="metadata")

    def columns(self, now: float) -> _Columns:
        """What `_INSERT` begins with; under a new id each time."""
        return rows.new_id("ro", 12), self.input_json, now, self.mode, self.config_json, self.metadata_json


def _made(columns: _Columns, resources_id: str | None, version: int | None) -> Rollout:
    rollout_id, input_json, start_time, mode, config_json, metadata_json = columns
    return rows.rollout(
        (
            rollout_id,
            input_json,
            start_time,
            None,
            mode,
            resources_id,
            version,
            "queuing",
            config_json,
            metadata_json,
            None,
        )
    )


async def _undo_claim(transaction: Transaction, rollout: AttemptedRollout) -> None:
    """Unless something has happened to it since: the attempt was never made, the rollout is first in the queue."""
    untouched = await transaction.fetch(
        "DELETE FROM attempts WHERE rollout_id = ?1 AND attempt_id = ?2 AND status = 'preparing' RETURNING sequence_id",
        rollout.rollout_id,
        rollout.attempt.attempt_id,
    )
    if not untouched:
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
    transaction.announce(QUEUE, 1)
    transaction.announce(news("rollout", rollout.rollout_id))


async def _in_spite_of_cancellation(work: asyncio.Future[T] | Awaitable[T]) -> T | None:
    """Finish `work` although the caller is being cancelled; None when it failed."""
    future = asyncio.ensure_future(work)
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    return None if future.cancelled() or future.exception() else future.result()
