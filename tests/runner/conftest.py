"""A store in memory, directly or over HTTP, with runners on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.store import LightningStore
from tests.processes import TIMEOUT


class Harness:
    """A store with helpers to run agents on it."""

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
        """Enqueue the inputs, run all of them with one runner, and return the rollouts."""
        ids = [(await self.store.enqueue_rollout(each, mode=mode, config=config)).rollout_id for each in inputs]
        runner = self.runner(max_rollouts=len(inputs), **options)
        with runner.run_context(agent=agent, store=self.store, hooks=hooks):
            await runner.iter()
        return list(await self.store.query_rollouts(ids))

    async def run_one(self, agent: Any, input: Any = "task", **options: Any) -> Any:
        """Run one rollout."""
        [rollout] = await self.run(agent, input, **options)
        return rollout

    def runner(self, **options: Any) -> agl.LitAgentRunner[Any]:
        """Create a runner with frequent heartbeats, so that no test waits for one."""
        defaults: dict[str, Any] = {"heartbeat_interval": 0.02, "poll_interval": 5.0}
        return agl.LitAgentRunner(agl.OtelTracer(), **defaults | options)

    async def spans(self, rollout: agl.Rollout, name: str | None = None) -> list[agl.Span]:
        """Return the rollout's spans, in order."""
        return list(await self.store.query_spans(rollout.rollout_id, name=name))


over_http_too = pytest.mark.parametrize("harness", ["memory", "http"], indirect=True)
"""For tests whose result may depend on the connection to the store."""


@pytest.fixture
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    async with agl.InMemoryLightningStore() as store:
        if getattr(request, "param", "memory") == "memory":
            yield Harness(store)
            return
        server = agl.LightningStoreServer(store, port=0)
        await server.start()
        try:
            async with agl.LightningStoreClient(server.endpoint) as client:
                yield Harness(client)
        finally:
            await server.stop()


async def eventually(condition: Callable[[], Any]) -> Any:
    """Poll until `condition` returns a true value, and return it. For facts without an event to wait for."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.005)
