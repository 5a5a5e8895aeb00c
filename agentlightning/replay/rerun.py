"""An agent run again on a rollout that is on record, with the tape in place of every model."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..adapter import find_final_reward
from ..errors import NotFound
from ..litagent import LitAgent
from ..runner import LitAgentRunner
from ..store import InMemoryLightningStore, LightningStore
from ..tracer import OtelTracer
from ..types import LLM, NamedResources, Rollout
from .cassette import Tape
from .replay_server import Player


@dataclass(frozen=True)
class Replayed:
    """What came of running it again."""

    calls: int
    """How many are on the tape."""
    played: int
    difference: str | None
    """The first call that is not as it was; None where all are."""
    status: str
    was_status: str
    reward: float | None
    was_reward: float | None

    @property
    def same(self) -> bool:
        """Whether it went as it had gone."""
        return (self.difference, self.status, self.reward) == (None, self.was_status, self.was_reward)


async def replay(store: LightningStore, rollout_id: str, agent: LitAgent[Any] | Callable[..., Any]) -> Replayed:
    """Run `agent` on the task of a stored rollout, its models answering from the tape. Raises `NotFound`.

    Every LLM among the rollout's resources is the tape, and so are OPENAI_BASE_URL and ANTHROPIC_BASE_URL.
    """
    rollout = await store.get_rollout_by_id(rollout_id)
    if rollout is None:
        raise NotFound(f"there is no rollout {rollout_id} in this store")
    spans = list(await store.query_spans(rollout_id, "latest"))
    tape = Tape.of(spans)
    async with Player(tape) as player, InMemoryLightningStore() as scratch:
        with _models_at(player.url):
            again = await _run(agent, rollout, await _resources(store, rollout, player.url), scratch)
        reward = find_final_reward(list(await scratch.query_spans(again.rollout_id)))
    return Replayed(
        calls=len(tape.exchanges),
        played=tape.played,
        difference=tape.difference or _left_out(tape),
        status=again.status,
        was_status=rollout.status,
        reward=reward,
        was_reward=find_final_reward(spans),
    )


async def _run(agent: Any, rollout: Rollout, resources: NamedResources, scratch: LightningStore) -> Rollout:
    runner = LitAgentRunner[Any](OtelTracer())
    with runner.run_context(agent=agent, store=scratch):
        return await runner.step(rollout.input, resources, rollout.mode)


async def _resources(store: LightningStore, rollout: Rollout, url: str) -> NamedResources:
    if rollout.resources_id is None:
        return {}
    found = await store.get_resources_by_id(rollout.resources_id, rollout.resources_version)
    return {name: _on_tape(resource, url) for name, resource in (found.resources if found else {}).items()}


def _on_tape(resource: Any, url: str) -> Any:
    if not isinstance(resource, LLM):
        return resource
    return LLM(endpoint=url, model=resource.model, api_key="replay", sampling_parameters=resource.sampling_parameters)


def _left_out(tape: Tape) -> str | None:
    return f"call {tape.played + 1} on the tape was not made" if tape.unplayed else None


@contextmanager
def _models_at(url: str) -> Generator[None]:
    ours = {
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": "replay",
        "ANTHROPIC_BASE_URL": url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": "replay",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
