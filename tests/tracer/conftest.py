"""A store in memory, a model over HTTP, and stores that fail as the test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptedRollout, Span
from tests.scripted_model import ScriptedModel


@pytest.fixture(params=["memory", "http"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[LightningStore]:
    async with InMemoryLightningStore() as store:
        if request.param == "memory":
            yield store
            return
        server = LightningStoreServer(store, port=0)
        await server.start()
        async with LightningStoreClient(server.endpoint) as client:
            yield client
        await server.stop()


@pytest.fixture(scope="session")
def running_model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as model:
        yield model


@pytest.fixture
def model(running_model: ScriptedModel) -> ScriptedModel:
    return running_model.reset()


class ScriptedStore(LightningStore):
    """Keeps spans in a list, unless `refuses` raises; a store whose bad days can be chosen."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.batches: list[int] = []
        self.asked = 0
        self.opened = threading.Event()
        """Until it is set, the store does not answer."""
        self.opened.set()

    def refuse(self, spans: Sequence[Span]) -> None:
        """Raise what the store is to answer."""

    async def add_many_spans(self, spans: Sequence[Span]) -> list[Span]:
        self.asked += 1
        if not self.opened.is_set():
            await asyncio.to_thread(self.opened.wait)
        self.refuse(spans)
        self.batches.append(len(spans))
        self.spans.extend(spans)
        return list(spans)

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


@pytest.fixture
def scripted_store() -> ScriptedStore:
    return ScriptedStore()


def ids(attempted: AttemptedRollout) -> dict[str, Any]:
    """As `trace_context` takes them."""
    return {"rollout_id": attempted.rollout_id, "attempt_id": attempted.attempt.attempt_id}
