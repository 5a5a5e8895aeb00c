"""Regrading: rewards recomputed from recorded outputs."""

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
class RegradeResult:
    """A rollout's reward from another grader, beside the recorded one."""

    rollout_id: str
    recorded_reward: float | None
    reward: float


async def regrade(
    store: LightningStore, grader: Callable[[Any, str], Any], rollout_ids: Sequence[str] | None = None
) -> list[RegradeResult]:
    """Call `grader(task, output)` for each of these rollouts, or for all succeeded ones. Does not change the store.

    The output is the standard output of the agent's program, or else the last response of its model.
    """
    return [await _regrade(store, grader, rollout) async for rollout in _rollouts(store, rollout_ids)]


async def _regrade(store: LightningStore, grader: Callable[[Any, str], Any], rollout: Rollout) -> RegradeResult:
    spans = list(await store.query_spans(rollout.rollout_id, "latest"))
    reward = grader(rollout.input, output_of(spans))
    if inspect.isawaitable(reward):
        reward = await reward
    return RegradeResult(rollout.rollout_id, find_final_reward(spans), float(reward))


def output_of(spans: Iterable[Span]) -> str:
    """Return the agent's final output."""
    output = ""
    for span in spans:
        if "process.exit.code" in span.attributes:
            return str(span.attributes.get(OPERATION_OUTPUT) or "")
        output = str(span.attributes.get(f"{GEN_AI_COMPLETION}.0.content") or output)
    return output


async def _rollouts(store: LightningStore, rollout_ids: Sequence[str] | None) -> AsyncIterator[Rollout]:
    for rollout_id in rollout_ids or ():
        rollout = await store.get_rollout_by_id(rollout_id)
        if rollout is None:
            raise NotFound(f"rollout {rollout_id} is not in this store")
        yield rollout
    cursor: str | None = None
    while not rollout_ids:
        page = await store.query_rollouts(status_in=["succeeded"], limit=PAGE, cursor=cursor)
        for rollout in page:
            yield rollout
        if (cursor := page.cursor) is None:
            return
