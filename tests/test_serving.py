"""How servers end; that what is under way is answered first is shown where the proxy is, in llm_proxy/test_life.py."""

from __future__ import annotations

import time

import aiohttp

import agentlightning as agl
from tests.timing import quickest


async def test_a_server_that_nobody_asks_is_gone_as_soon_as_it_is_told() -> None:
    async def seconds_to_the_end() -> float:
        async with agl.InMemoryLightningStore() as store:
            server = agl.LightningStoreServer(store, port=0)
            await server.start()
            async with aiohttp.ClientSession() as session:  # whose connection stays open
                await (await session.get(f"{server.endpoint}/health")).read()
                began = time.monotonic()
                await server.stop()
                return time.monotonic() - began

    assert await quickest(seconds_to_the_end, 0.05) < 0.1
