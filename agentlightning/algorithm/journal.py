"""Journal: what an algorithm has done so far, kept in the store, so that a run that was killed goes on where it was.

Each step is a span. The spans of one sitting belong to a rollout of their own, which never is in the queue, so that the
dashboard shows what the algorithm did beside what its agents did. A step has a key, and is done once: whoever comes to
it again, in this sitting or a later one, gets what came of it the first time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from .. import payload
from ..store import LightningStore
from ..types import AttemptedRollout, AttemptStatus, Rollout, RolloutConfig, Span, trace_of

STEP: Final = "agentlightning.journal.step"
KEY: Final = "agentlightning.journal.key"
VALUE: Final = "agentlightning.journal.value"
MARK: Final = "agentlightning_journal"
"""The field of a rollout's input, and of its metadata, that tells a sitting from an agent's rollout."""

SILENCE_SECONDS: Final = 365 * 24 * 3600.0
"""A sitting may be silent for as long as its longest step takes; its end is reported, or seen by who resumes it."""


def is_sitting(rollout: Rollout) -> bool:
    """Whether the rollout is an algorithm's own."""
    return MARK in rollout.metadata


class Journal:
    """The steps of one run. Made with `open`."""

    def __init__(self, store: LightningStore, sitting: AttemptedRollout, steps: dict[str, Any]) -> None:
        self._store = store
        self._sitting = sitting
        self._steps = steps
        self._under_way: dict[str, asyncio.Future[Any]] = {}

    @classmethod
    async def open(cls, store: LightningStore, run: str) -> Journal:
        """Begin a sitting of `run`. Sittings that were never ended are ended, since only one is held at a time."""
        before = await sittings(store)
        sitting = await store.start_rollout(
            {MARK: run},
            config=RolloutConfig(unresponsive_seconds=SILENCE_SECONDS),
            metadata={MARK: run},
        )
        await store.update_attempt(sitting.rollout_id, sitting.attempt.attempt_id, status="running")
        steps: dict[str, Any] = {}
        for earlier in before:  # ended only now, so that runners elsewhere see at once that the run goes on
            steps |= await _steps_of(store, earlier)
            if earlier.status not in ("succeeded", "failed", "cancelled"):
                await _end(store, earlier, "failed", "its process has ended")
        return cls(store, sitting, steps)

    @property
    def is_resumed(self) -> bool:
        """Something was done in an earlier sitting."""
        return bool(self._steps)

    async def once(self, key: str, step: Callable[[], Awaitable[Any]]) -> Any:
        """What came of the step `key`: if it was done before, from the journal; else it is done now.

        What comes of a step is JSON. A step that raises was not done.
        """
        if key in self._steps:
            return self._steps[key]
        if key in self._under_way:
            return await self._under_way[key]
        working = self._under_way[key] = asyncio.ensure_future(self._do(key, step))
        try:
            return await working
        finally:
            del self._under_way[key]

    async def end(self, status: AttemptStatus, reason: str | None = None) -> None:
        """End the sitting; runners on other machines then know that the run is over."""
        await _end(self._store, self._sitting, status, reason)

    async def _do(self, key: str, step: Callable[[], Awaitable[Any]]) -> Any:
        value = await step()
        # As it will be read again, so that a resumed run goes exactly as one that was not interrupted.
        text = payload.dumps(value, field=key).decode()
        await self._store.add_span(
            Span.from_attributes(
                name=STEP,
                rollout_id=self._sitting.rollout_id,
                attempt_id=self._sitting.attempt.attempt_id,
                trace_id=trace_of(self._sitting.rollout_id, self._sitting.attempt.attempt_id),
                span_id=hashlib.sha256(key.encode()).hexdigest()[:16],
                attributes={KEY: key, VALUE: text},
            )
        )
        self._steps[key] = orjson.loads(text)
        return self._steps[key]


async def sittings(store: LightningStore) -> list[AttemptedRollout]:
    """The algorithm's own rollouts, first to latest."""
    found = await store.query_rollouts(text_contains=f'"{MARK}"')
    return [rollout for rollout in found if isinstance(rollout, AttemptedRollout) and is_sitting(rollout)]


async def _steps_of(store: LightningStore, sitting: AttemptedRollout) -> dict[str, Any]:
    spans = await store.query_spans(sitting.rollout_id, name=STEP)
    return {span.attributes[KEY]: orjson.loads(span.attributes[VALUE]) for span in spans}


async def _end(store: LightningStore, sitting: AttemptedRollout, status: AttemptStatus, reason: str | None) -> None:
    await store.update_attempt(
        sitting.rollout_id,
        sitting.attempt.attempt_id,
        status=status,
        metadata={"reason": reason} if reason else {},
    )
