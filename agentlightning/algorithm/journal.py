"""Journal: records the completed steps of an algorithm in the store, so that a killed run can be resumed.

A new session begins whenever a run is started or resumed. Each session is stored as a rollout that is never queued, and
each completed step as a span of that rollout. The dashboard therefore shows the algorithm's steps alongside the agents'
rollouts. Each step has a key and is completed only once. If `Journal.once` is called again with the same key, in the
same session or a later one, it returns the recorded result.
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
"""Name of the span that records a completed step."""

KEY: Final = "agentlightning.journal.key"
VALUE: Final = "agentlightning.journal.value"
"""Names of the span attributes that contain a step's key (`KEY`) and its JSON-encoded result (`VALUE`)."""

SESSION_MARK: Final = "agentlightning_journal"
"""Key in a rollout's input and metadata that marks the rollout as a journal session."""

SESSION_UNRESPONSIVE_SECONDS: Final = 365 * 24 * 3600.0
"""Time in seconds after which the store marks a silent session as unresponsive: one year, so in practice never.

A session does not send heartbeats, so the store receives nothing from it while a step is running."""


def is_journal_session(rollout: Rollout) -> bool:
    """Return True if the rollout records an algorithm's steps instead of an agent's work."""
    return SESSION_MARK in rollout.metadata


class Journal:
    """The recorded steps of one run. Create a journal with `Journal.open`."""

    def __init__(self, store: LightningStore, session: AttemptedRollout, steps: dict[str, Any]) -> None:
        self._store = store
        self._session = session
        self._steps = steps
        self._in_progress: dict[str, asyncio.Future[Any]] = {}

    @classmethod
    async def open(cls, store: LightningStore, run: str) -> Journal:
        """Start a session for the run named `run`, and load the completed steps of all earlier sessions in the store.

        Earlier sessions that have not ended are marked as failed, because only one session may be active.
        """
        earlier = await journal_sessions(store)
        session = await store.start_rollout(
            {SESSION_MARK: run},
            config=RolloutConfig(unresponsive_seconds=SESSION_UNRESPONSIVE_SECONDS),
            metadata={SESSION_MARK: run},
        )
        await store.update_attempt(session.rollout_id, session.attempt.attempt_id, status="running")
        steps: dict[str, Any] = {}
        # Runners on other machines stop when the newest session ends. The new session must therefore start before the
        # earlier ones end.
        for each in earlier:
            steps |= await _load_steps(store, each)
            if each.status not in ("succeeded", "failed", "cancelled"):
                await _end(store, each, "failed", "its process has ended")
        return cls(store, session, steps)

    @property
    def is_resumed(self) -> bool:
        """True if at least one step has been completed, in this session or an earlier one."""
        return bool(self._steps)

    async def once(self, key: str, step: Callable[[], Awaitable[Any]]) -> Any:
        """Run `step` and return its result. If a step with this key is complete, return its recorded result instead.

        The result must be JSON-serializable. A step that raises an exception is not recorded as complete.
        Concurrent calls with the same key share one execution of the step.
        """
        if key in self._steps:
            return self._steps[key]
        if key in self._in_progress:
            return await self._in_progress[key]
        task = self._in_progress[key] = asyncio.ensure_future(self._run(key, step))
        try:
            return await task
        finally:
            del self._in_progress[key]

    async def end(self, status: AttemptStatus, reason: str | None = None) -> None:
        """End the session with `status`, which tells runners on other machines that the run is over.

        `reason` is saved in the metadata of the session's attempt.
        """
        await _end(self._store, self._session, status, reason)

    async def _run(self, key: str, step: Callable[[], Awaitable[Any]]) -> Any:
        # Return the decoded JSON, not the original value, so that a resumed run gets exactly the same result.
        text = payload.dumps(await step(), field=key).decode()
        rollout_id, attempt_id = self._session.rollout_id, self._session.attempt.attempt_id
        await self._store.add_span(
            Span.from_attributes(
                name=STEP,
                rollout_id=rollout_id,
                attempt_id=attempt_id,
                trace_id=trace_of(rollout_id, attempt_id),
                span_id=hashlib.sha256(key.encode()).hexdigest()[:16],
                attributes={KEY: key, VALUE: text},
            )
        )
        self._steps[key] = orjson.loads(text)
        return self._steps[key]


async def journal_sessions(store: LightningStore) -> list[AttemptedRollout]:
    """Return the journal sessions in the store, oldest first."""
    found = await store.query_rollouts(text_contains=f'"{SESSION_MARK}"')
    return [rollout for rollout in found if isinstance(rollout, AttemptedRollout) and is_journal_session(rollout)]


async def _load_steps(store: LightningStore, session: AttemptedRollout) -> dict[str, Any]:
    spans = await store.query_spans(session.rollout_id, name=STEP)
    return {span.attributes[KEY]: orjson.loads(span.attributes[VALUE]) for span in spans}


async def _end(store: LightningStore, session: AttemptedRollout, status: AttemptStatus, reason: str | None) -> None:
    metadata = {"reason": reason} if reason else {}
    await store.update_attempt(session.rollout_id, session.attempt.attempt_id, status=status, metadata=metadata)
