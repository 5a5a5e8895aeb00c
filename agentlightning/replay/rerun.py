"""Replay of recorded rollouts with their recorded model responses, and regrading of their recorded outputs."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from ..adapter import find_final_reward
from ..errors import NotFound
from ..litagent import LitAgent
from ..runner import LitAgentRunner
from ..semconv import GEN_AI_COMPLETION, OPERATION_OUTPUT
from ..store import InMemoryLightningStore, LightningStore
from ..tracer import OtelTracer
from ..types import LLM, NamedResources, Rollout, Span
from .cassette import Cassette, serve_cassette

PAGE: Final = 100
"""Number of rollouts to request from the store at a time."""


@dataclass(frozen=True)
class ReplayResult:
    """The result of a replay, compared with the recorded rollout."""

    recorded_calls: int
    matched_calls: int
    difference: str | None
    """Description of the first difference from the recorded calls, or None if all calls match."""
    status: str
    recorded_status: str
    reward: float | None
    recorded_reward: float | None

    @property
    def is_identical(self) -> bool:
        """True if the calls, the status and the reward match the recording."""
        return (self.difference, self.status, self.reward) == (None, self.recorded_status, self.recorded_reward)


async def replay(store: LightningStore, rollout_id: str, agent: LitAgent[Any] | Callable[..., Any]) -> ReplayResult:
    """Run `agent` on the task of a stored rollout, with the model responses recorded in the rollout's latest attempt.

    A local server returns these responses. During the replay, every `LLM` among the rollout's resources uses this
    server, and the environment variables OPENAI_BASE_URL and ANTHROPIC_BASE_URL contain the server's address. Does not
    change `store`. Raises `NotFound` if `store` does not contain the rollout.
    """
    rollout = await _rollout(store, rollout_id)
    spans = list(await store.query_spans(rollout_id, "latest"))
    cassette = Cassette.from_spans(spans)
    async with serve_cassette(cassette) as url, InMemoryLightningStore() as scratch:
        runner, resources = LitAgentRunner[Any](OtelTracer()), await _resources(store, rollout, url)
        with _environment(_model_variables(url)), runner.run_context(agent=agent, store=scratch):
            rerun = await runner.step(rollout.input, resources, rollout.mode)
        reward = find_final_reward(list(await scratch.query_spans(rerun.rollout_id)))
    unmade = f"recorded call {cassette.used + 1} was not made" if cassette.unused else None
    return ReplayResult(
        recorded_calls=len(cassette.calls),
        matched_calls=cassette.used,
        difference=cassette.difference or unmade,
        status=rerun.status,
        recorded_status=rollout.status,
        reward=reward,
        recorded_reward=find_final_reward(spans),
    )


async def _resources(store: LightningStore, rollout: Rollout, url: str) -> NamedResources:
    """Return the rollout's resources, with the address of every `LLM` changed to `url`."""
    if rollout.resources_id is None:
        return {}
    update = await store.get_resources_by_id(rollout.resources_id, rollout.resources_version)
    return {
        name: LLM(endpoint=url, model=given.model, api_key="replay", sampling_parameters=given.sampling_parameters)
        if isinstance(given, LLM)
        else given
        for name, given in (update.resources if update else {}).items()
    }


def _model_variables(url: str) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": "replay",
        "ANTHROPIC_BASE_URL": url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": "replay",
    }


@contextmanager
def _environment(variables: Mapping[str, str]) -> Generator[None]:
    previous = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(previous)


# Regrading


@dataclass(frozen=True)
class RegradeResult:
    """The reward that a grader returned for a recorded rollout, with the recorded reward for comparison."""

    rollout_id: str
    recorded_reward: float | None
    reward: float


async def regrade(
    store: LightningStore, grader: Callable[[Any, str], Any], rollout_ids: Sequence[str] | None = None
) -> list[RegradeResult]:
    """Grade the given rollouts, or all that have succeeded, and return the new rewards. Does not change the store.

    `grader(task, output)` returns the reward or an awaitable for it. `task` is the rollout's input. `output` is the
    standard output of the agent's program if it was recorded, otherwise the text of the last recorded model response.
    """
    return [await _regrade(store, grader, rollout) async for rollout in _rollouts(store, rollout_ids)]


async def _regrade(store: LightningStore, grader: Callable[[Any, str], Any], rollout: Rollout) -> RegradeResult:
    spans = list(await store.query_spans(rollout.rollout_id, "latest"))
    reward = grader(rollout.input, output_of(spans))
    if inspect.isawaitable(reward):
        reward = await reward
    return RegradeResult(rollout.rollout_id, find_final_reward(spans), float(reward))


def output_of(spans: Iterable[Span]) -> str:
    """Return the output of the agent's program if it was recorded, otherwise the text of the last model response."""
    output = ""
    for span in spans:
        if "process.exit.code" in span.attributes:
            return str(span.attributes.get(OPERATION_OUTPUT) or "")
        output = str(span.attributes.get(f"{GEN_AI_COMPLETION}.0.content") or output)
    return output


async def _rollouts(store: LightningStore, rollout_ids: Sequence[str] | None) -> AsyncIterator[Rollout]:
    for rollout_id in rollout_ids or ():
        yield await _rollout(store, rollout_id)
    cursor: str | None = None
    while not rollout_ids:
        page = await store.query_rollouts(status_in=["succeeded"], limit=PAGE, cursor=cursor)
        for rollout in page:
            yield rollout
        if (cursor := page.cursor) is None:
            return


async def _rollout(store: LightningStore, rollout_id: str) -> Rollout:
    rollout = await store.get_rollout_by_id(rollout_id)
    if rollout is None:
        raise NotFound(f"rollout {rollout_id} is not in this store; check the id and the store")
    return rollout
