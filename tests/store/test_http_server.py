"""The store's HTTP server: every request, however malformed, has a defined outcome and harms no other client."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStoreServer

from ..faults.lossy import served
from .raw import Raw


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore()) as server:
        yield server


# Log


async def test_access_log_contains_no_character_that_a_client_could_forge_a_line_with(
    server: LightningStoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    forged = "%0d%0a2026-01-01%20[ERROR]%20FORGED%1b]0;p%07%c2%9b%e2%80%ae" + "x" * 20_000
    with caplog.at_level(logging.INFO, "agentlightning.store.access"):
        async with Raw(server.endpoint) as raw:
            for path in (f"/x{forged}", f"/get_rollout_by_id/{forged}", f"/dashboard/{forged}"):
                assert (await raw.send("GET", path)).status in {404, 422}

    assert len(caplog.messages) == 3
    assert all(message.isprintable() and message.isascii() for message in caplog.messages)
    assert all(len(message) < 2_000 for message in caplog.messages)
