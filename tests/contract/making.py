"""What the tests of a store begin with: rollouts on their way, spans with counting ids, and a look at everything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from agentlightning.store import LightningStore
from agentlightning.types import AttemptedRollout, Rollout, RolloutConfig, Span

RETRYING = RolloutConfig(max_attempts=3, retry_condition=["failed", "timeout", "unresponsive"])

WHILE = 60.0
"""Longer than anything takes that is going to happen; only what fails waits that long."""

DEADLINES = (0.2, 2.0, 15.0)
"""Seconds of a deadline that a test has to be ahead of: where a busy machine is late, it is tried with more."""


async def claimed(store: LightningStore, input: Any = "task", *, worker_id: str | None = None, **given: Any) -> Any:
    """A rollout that a worker has just taken from the queue."""
    rollout = await store.enqueue_rollout(input, **given)
    attempted = await store.dequeue_rollout(worker_id=worker_id)
    assert attempted is not None
    assert attempted.rollout_id == rollout.rollout_id
    return attempted


async def ended(store: LightningStore, status: Any = "succeeded", input: Any = "task", **given: Any) -> Rollout:
    """A rollout that a worker has carried out."""
    attempted = await claimed(store, input, **given)
    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status=status)
    return await found(store, attempted)


async def found(store: LightningStore, rollout: Rollout) -> Any:
    """The rollout as the store has it now."""
    now = await store.get_rollout_by_id(rollout.rollout_id)
    assert now is not None
    return now


async def statuses(store: LightningStore, rollout: Rollout) -> tuple[str, ...]:
    """Where a rollout stands now: its own status, then its attempts', first to latest."""
    attempts = await store.query_attempts(rollout.rollout_id)
    return ((await found(store, rollout)).status, *(attempt.status for attempt in attempts))


def span(of: AttemptedRollout, n: int = 1, name: str = "step", **given: Any) -> Span:
    """The `n`th span that a test makes for an attempt."""
    return Span(
        rollout_id=of.rollout_id,
        attempt_id=of.attempt.attempt_id,
        trace_id=f"{1:032x}",
        span_id=f"{n:016x}",
        name=name,
        **given,
    )


def numbered(span: Span, sequence_id: int) -> Span:
    """The span as it is stored."""
    return span.model_copy(update={"sequence_id": sequence_id})


async def everything(store: LightningStore) -> dict[str, Any]:
    """All that can be listed; two of these are equal when nothing has changed between them."""
    rollouts = await store.query_rollouts()
    return {
        "rollouts": rollouts.items,
        "attempts": [(await store.query_attempts(rollout.rollout_id)).items for rollout in rollouts],
        "spans": [(await store.query_spans(rollout.rollout_id)).items for rollout in rollouts],
        "resources": (await store.query_resources()).items,
        "latest resources": await store.get_latest_resources(),
        "workers": (await store.query_workers()).items,
        "statistics": await store.statistics(),
    }


async def eventually(
    store: LightningStore, rollout: Rollout, holds: Callable[[Any], bool], *, within: float = WHILE
) -> Any:
    """The rollout as soon as `holds` is true of it, for states that no call of the store waits for."""

    async def look() -> Any:
        while not holds(now := await found(store, rollout)):
            await store.wait_for_rollouts([rollout.rollout_id], timeout=0.02)
        return now

    return await asyncio.wait_for(look(), within)


async def soon(awaitable: Awaitable[Any]) -> Any:
    """What is awaited, which must not take forever."""
    return await asyncio.wait_for(awaitable, WHILE)
