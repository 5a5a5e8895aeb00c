"""Helpers for tests of the store: claimed and ended rollouts, numbered spans, and the whole contents of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from agentlightning.store import LightningStore
from agentlightning.types import AttemptedRollout, Rollout, RolloutConfig, Span

RETRYING = RolloutConfig(max_attempts=3, retry_condition=["failed", "timeout", "unresponsive"])

LONG_WAIT = 60.0
"""Seconds; longer than any event takes, so only a failing test waits this long."""

EVENT_TIMEOUT = 12.0
"""Seconds until a test fails whose event does not happen."""

DEADLINES = (0.2, 1.0, 5.0)
"""Deadlines in seconds, in increasing order; if the machine is too busy for one, the test retries with the next."""


async def claimed(store: LightningStore, input: Any = "task", *, worker_id: str | None = None, **given: Any) -> Any:
    """Enqueue and claim a rollout."""
    rollout = await store.enqueue_rollout(input, **given)
    attempted = await store.dequeue_rollout(worker_id=worker_id)
    assert attempted is not None
    assert attempted.rollout_id == rollout.rollout_id
    return attempted


async def ended(store: LightningStore, status: Any = "succeeded", input: Any = "task", **given: Any) -> Rollout:
    """Enqueue, claim and end a rollout."""
    attempted = await claimed(store, input, **given)
    await store.update_attempt(attempted.rollout_id, attempted.attempt.attempt_id, status=status)
    return await found(store, attempted)


async def found(store: LightningStore, rollout: Rollout) -> Any:
    """Return the rollout as it is stored now."""
    now = await store.get_rollout_by_id(rollout.rollout_id)
    assert now is not None
    return now


async def statuses(store: LightningStore, rollout: Rollout) -> tuple[str, ...]:
    """Return the status of a rollout, then those of its attempts, first to latest."""
    attempts = await store.query_attempts(rollout.rollout_id)
    return ((await found(store, rollout)).status, *(attempt.status for attempt in attempts))


def span(of: AttemptedRollout, n: int = 1, name: str = "step", **given: Any) -> Span:
    """Return the `n`th test span of an attempt."""
    return Span(
        rollout_id=of.rollout_id,
        attempt_id=of.attempt.attempt_id,
        trace_id=f"{1:032x}",
        span_id=f"{n:016x}",
        name=name,
        **given,
    )


def numbered(span: Span, sequence_id: int) -> Span:
    """Return the span as it is stored under this number."""
    return span.model_copy(update={"sequence_id": sequence_id})


async def everything(store: LightningStore) -> dict[str, Any]:
    """Return everything that can be listed; equal results mean that nothing has changed between them."""
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
    store: LightningStore, rollout: Rollout, holds: Callable[[Any], bool], *, within: float = EVENT_TIMEOUT
) -> Any:
    """Poll until `holds` is true of the rollout, and return it. For states that no operation of the store waits for."""

    async def look() -> Any:
        while not holds(now := await found(store, rollout)):
            await store.wait_for_rollouts([rollout.rollout_id], timeout=0.02)
        return now

    return await asyncio.wait_for(look(), within)


async def soon(awaitable: Awaitable[Any]) -> Any:
    """Return the result of the awaitable within the timeout."""
    return await asyncio.wait_for(awaitable, EVENT_TIMEOUT)
