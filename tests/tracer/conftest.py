"""Fixtures: a store in memory or over HTTP, a model server, and a store whose failures a test chooses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptedRollout, Span
from tests.scripted_model import ScriptedModel

over_both = pytest.mark.parametrize("store", ["memory", "http"], indirect=True)
"""Runs a test with a store in memory, and with a client of a store server."""


@pytest.fixture
async def store(request: pytest.FixtureRequest) -> AsyncIterator[LightningStore]:
    async with InMemoryLightningStore() as store:
        if getattr(request, "param", "memory") == "memory":
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
    """Keeps spans in a list, unless `check` raises."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.requests = 0
        self.answers = threading.Event()
        """While it is not set, the store does not answer."""
        self.answers.set()

    def check(self, spans: Sequence[Span]) -> None:
        """Raise the store's answer, if it is an error."""

    async def add_many_spans(self, spans: Sequence[Span]) -> list[Span]:
        self.requests += 1
        if not self.answers.is_set():
            await asyncio.to_thread(self.answers.wait)
        self.check(spans)
        self.spans.extend(spans)
        return list(spans)

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


@pytest.fixture
def scripted_store() -> ScriptedStore:
    return ScriptedStore()


def ids(attempted: AttemptedRollout) -> dict[str, Any]:
    """Return the ids as arguments of `trace_context`."""
    return {"rollout_id": attempted.rollout_id, "attempt_id": attempted.attempt.attempt_id}
