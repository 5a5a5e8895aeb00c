"""A web page in a browser on this machine can neither read nor drain the store; everybody else is served meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agentlightning.store import InMemoryLightningStore, LightningStoreClient, LightningStoreServer

from ..contract.making import everything
from .raw import ROUTES, Raw

PAGES = {
    "another origin": {"Origin": "http://evil.example"},
    "a page without an origin": {"Origin": "null"},
    "the same host, another port": {"Origin": "http://127.0.0.1:1"},
    "an image of another site": {"Sec_Fetch_Site": "cross-site"},
    "another part of the same site": {"Sec_Fetch_Site": "same-site"},
    "a name that leads here": {"Host": "evil.example"},
    "a name that looks like ours": {"Host": "localhost.evil.example"},
}


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    server = LightningStoreServer(InMemoryLightningStore(), port=0)
    await server.start()
    yield server
    await server.close()


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_from_elsewhere_is_refused_on_every_route(server: LightningStoreServer, page: str) -> None:
    rollout = await server.enqueue_rollout("precious")
    before = await everything(server)
    async with Raw(server.endpoint) as raw, LightningStoreClient(server.endpoint) as client:
        for route in ROUTES.values():
            path = route.path.replace("{", "").replace("}", "")
            answer = await raw.send(route.method, path, b"{}" if route.method == "POST" else None, **PAGES[page])
            assert (route.path, answer.status) == (route.path, 403)
            assert "precious" not in answer.text
        for path in ("/metrics", "/openapi.json", "/events"):
            assert (await raw.send("GET", path, **PAGES[page])).status == 403
        assert (await raw.send("POST", "/v1/traces", b"{}", **PAGES[page])).status == 403

        assert await everything(client) == before
        claim = await client.dequeue_rollout()

    assert claim is not None
    assert claim.rollout_id == rollout.rollout_id


async def test_the_stores_own_page_is_served(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        own = {"Origin": server.endpoint, "Sec_Fetch_Site": "same-origin"}
        assert (await raw.call("query_rollouts", {}, **own)).status == 200


async def test_no_page_from_elsewhere_is_allowed_to_read_an_answer(server: LightningStoreServer) -> None:
    async with Raw(server.endpoint) as raw:
        asked = {"Origin": "http://evil.example", "Access_Control_Request_Method": "POST"}
        answer = await raw.send("OPTIONS", "/enqueue_rollout", **asked)

    assert answer.status == 403
    assert not any(name.lower().startswith("access-control-") for name in answer.headers)
