"""Rewards computed anew from what is on record."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..adapter import find_final_reward
from ..errors import NotFound
from ..semconv import GEN_AI_COMPLETION, OPERATION_OUTPUT
from ..store import LightningStore
from ..types import Rollout, Span

PAGE: Final = 100


@dataclass(frozen=True)
class Regraded:
    """A rollout's reward as it was, and as another grader sees it."""

    rollout_id: str
    was: float | None
    now: float


async def regrade(
    store: LightningStore, grader: Callable[[Any, str], Any], rollout_ids: Sequence[str] | None = None
) -> list[Regraded]:
    """Call `grader` with the task and the output of each of these rollouts (all that succeeded, when none are named).

    The output is what the agent's program printed, or else what its model said last. Nothing is changed in the store.
    """
    return [await _regraded(store, grader, rollout) async for rollout in _rollouts(store, rollout_ids)]


async def _regraded(store: LightningStore, grader: Callable[[Any, str], Any], rollout: Rollout) -> Regraded:
    spans = list(await store.query_spans(rollout.rollout_id, "latest"))
    reward = grader(rollout.input, output_of(spans))
    if inspect.isawaitable(reward):
        reward = await reward
    return Regraded(rollout.rollout_id, find_final_reward(spans), float(reward))


def output_of(spans: Iterable[Span]) -> str:
    """What the agent said in the end."""
    said = ""
    for span in spans:
        printed = span.attributes.get(OPERATION_OUTPUT)
        if "process.exit.code" in span.attributes:
            return str(printed or "")
        said = str(span.attributes.get(f"{GEN_AI_COMPLETION}.0.content") or said)
    return said


async def _rollouts(store: LightningStore, rollout_ids: Sequence[str] | None) -> AsyncIterator[Rollout]:
    if rollout_ids:
        for rollout_id in rollout_ids:
            rollout = await store.get_rollout_by_id(rollout_id)
            if rollout is None:
                raise NotFound(f"there is no rollout {rollout_id} in this store")
            yield rollout
        return
    cursor: str | None = None
    while True:
        page = await store.query_rollouts(status_in=["succeeded"], limit=PAGE, cursor=cursor)
        for rollout in page:
            yield rollout
        if (cursor := page.cursor) is None:
            return
