"""A store in memory, and runners on it that tidy up after themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.store import LightningStore
from tests.processes import PATIENCE


class Workshop:
    """A store, and what tests do with runners on it."""

    def __init__(self, store: LightningStore) -> None:
        self.store = store

    async def run(
        self,
        agent: Any,
        *inputs: Any,
        hooks: Sequence[agl.Hook] = (),
        config: Any = None,
        mode: Any = None,
        **options: Any,
    ) -> list[Any]:
        """Enqueue the inputs, let one runner carry out all of them, return the rollouts."""
        ids = [(await self.store.enqueue_rollout(each, mode=mode, config=config)).rollout_id for each in inputs]
        runner = self.runner(max_rollouts=len(inputs), **options)
        with runner.run_context(agent=agent, store=self.store, hooks=hooks):
            await runner.iter()
        return list(await self.store.query_rollouts(ids))

    async def run_one(self, agent: Any, input: Any = "task", **options: Any) -> Any:
        """`run` for one rollout."""
        [rollout] = await self.run(agent, input, **options)
        return rollout

    def runner(self, **options: Any) -> agl.LitAgentRunner[Any]:
        """A runner that beats often, so that no test waits for it."""
        return agl.LitAgentRunner(agl.OtelTracer(), **{"heartbeat_interval": 0.02, "poll_interval": 5.0} | options)

    async def spans(self, rollout: agl.Rollout, name: str | None = None) -> list[agl.Span]:
        """The rollout's spans, in their order."""
        return list(await self.store.query_spans(rollout.rollout_id, name=name))


everywhere = pytest.mark.parametrize("workshop", ["memory", "http"], indirect=True)
"""For tests in which the way to the store may matter."""


@pytest.fixture
async def workshop(request: pytest.FixtureRequest) -> AsyncIterator[Workshop]:
    async with agl.InMemoryLightningStore() as store:
        if getattr(request, "param", "memory") == "memory":
            yield Workshop(store)
            return
        server = agl.LightningStoreServer(store, port=0)
        await server.start()
        try:
            async with agl.LightningStoreClient(server.endpoint) as client:
                yield Workshop(client)
        finally:
            await server.stop()


async def eventually(condition: Callable[[], Any]) -> Any:
    """What `condition` returns, once that is true: for what nobody announces."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.005)
