"""What the store serves to the dashboard: files under a strict policy, and events that nobody misses or waits for."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentlightning.store import InMemoryLightningStore, LightningStoreServer
from agentlightning.store.http.assets import DASHBOARD, assets
from agentlightning.store.http.events import COALESCE_SECONDS, MAX_PENDING_EVENTS, ChangeFeed
from tests.processes import TIMEOUT

ROOT = Path(__file__).parent.parent.parent
BUDGET = 150 * 1024


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with InMemoryLightningStore() as store:
        server = LightningStoreServer(store, port=0)
        await server.start()
        yield server
        await server.stop()


async def events(
    session: aiohttp.ClientSession, server: LightningStoreServer, last_id: str = ""
) -> AsyncIterator[tuple[str, Any]]:
    """Id and data of each event, as they come."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with session.get(f"{server.endpoint}/events", headers=headers) as response:
        event_id = ""
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                event_id = value
            if name == "data":
                yield event_id, json.loads(value)


def test_the_dashboard_weighs_less_than_150_kilobytes() -> None:
    assert sum(len(file.compressed) for file in assets().values()) < BUDGET


def test_the_libraries_are_as_they_were_fetched() -> None:
    subprocess.run([sys.executable, ROOT / "scripts/vendor", "--check"], check=True)


def test_no_module_makes_markup_of_text_or_asks_elsewhere() -> None:
    own = [path for path in DASHBOARD.rglob("*.js") if "vendor" not in path.parts]
    for path in own:
        text = path.read_text()
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"):
            assert forbidden not in text, f"{path.name}: {forbidden}"


async def test_the_page_and_its_files_come_under_a_strict_policy(server: LightningStoreServer) -> None:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        for path in ("/", "/dashboard/main.js", "/dashboard/style/base.css"):
            async with session.get(server.endpoint + path) as response:
                assert response.status == 200
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                name = path.removeprefix("/dashboard/") if path != "/" else "index.html"
                assert gzip.decompress(await response.read()) == assets()[name].content
                tag = response.headers["ETag"]
            async with session.get(server.endpoint + path, headers={"If-None-Match": tag}) as response:
                assert response.status == 304


async def test_the_browser_asks_once_for_the_files_of_a_version(server: LightningStoreServer) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(server.endpoint + "/") as response:
            assert response.headers["Cache-Control"] == "no-cache"
            named = re.findall(r'(?:href|src)="(dashboard/[^"]+)"', await response.text())
        assert len(named) > 40
        for path in named:
            async with session.get(f"{server.endpoint}/{path}") as response:
                assert response.status == 200, path
                assert "immutable" in response.headers["Cache-Control"]


@pytest.mark.parametrize("path", ["/dashboard/nothing.js", "/dashboard/../store/sql/base.py", "/dashboard/exported.py"])
async def test_nothing_but_the_dashboards_files_is_served(server: LightningStoreServer, path: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(server.endpoint + path) as response:
        assert response.status == 404


async def test_with_a_token_the_page_is_open_and_the_data_is_not() -> None:
    async with InMemoryLightningStore() as store:
        server = LightningStoreServer(store, port=0, token="0123456789abcdef")
        await server.start()
        async with aiohttp.ClientSession() as session:
            for path, status in {"/": 200, "/dashboard/main.js": 200, "/summary": 401, "/events": 401}.items():
                async with session.get(server.endpoint + path) as response:
                    assert response.status == status, path
        await server.stop()


async def test_an_event_tells_of_rollouts_spans_workers_and_resources(server: LightningStoreServer) -> None:
    async with aiohttp.ClientSession() as session:
        heard = events(session, server)
        assert (await anext(heard))[1] == {"everything": True, "read_only": False}

        await server.add_resources({"prompt": "Answer"})  # type: ignore[dict-item]
        rollout = await server.enqueue_rollout("task")
        told: dict[str, Any] = {}
        async for _, news in heard:
            told |= {name: value for name, value in news.items() if value}
            if "rollouts" in told:
                break

        assert told["resources"] is True
        assert told["rollouts"][rollout.rollout_id]["status"] == "queuing"
        assert "input" not in told["rollouts"][rollout.rollout_id]
        await heard.aclose()  # type: ignore[attr-defined]


async def test_who_comes_back_is_told_what_it_missed(server: LightningStoreServer) -> None:
    async with aiohttp.ClientSession() as session:
        staying, leaving = events(session, server), events(session, server)
        await anext(staying)
        last_id, _ = await anext(leaving)
        await leaving.aclose()  # type: ignore[attr-defined]

        rollout = await server.enqueue_rollout("task")
        await anext(staying)
        returning = events(session, server, last_id)
        _, news = await anext(returning)

        assert list(news["rollouts"]) == [rollout.rollout_id]
        for listener in (staying, returning):
            await listener.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("last_id", ["", "anotherlife-3", "nonsense", "-"])
async def test_who_missed_more_than_is_known_is_told_to_look_again(server: LightningStoreServer, last_id: str) -> None:
    async with aiohttp.ClientSession() as session:
        heard = events(session, server, last_id)
        assert (await anext(heard))[1]["everything"] is True
        await heard.aclose()  # type: ignore[attr-defined]


async def test_a_thousand_changes_are_few_events(server: LightningStoreServer) -> None:
    async with aiohttp.ClientSession() as session:
        heard = events(session, server)
        await anext(heard)
        began = time.monotonic()
        await asyncio.gather(*(server.enqueue_rollout(n) for n in range(1_000)))
        rollout = await server.enqueue_rollout("the last")
        many = 0
        async for _, news in heard:
            many += 1
            if rollout.rollout_id in news["rollouts"] or (news["everything"] and many > 1):
                break
        assert many <= 2 + (time.monotonic() - began) / COALESCE_SECONDS
        await heard.aclose()  # type: ignore[attr-defined]


async def test_a_slow_reader_holds_nobody_up_and_starts_over() -> None:
    async with InMemoryLightningStore() as store:
        hub = ChangeFeed(store)
        slow = hub.stream(None)
        await anext(slow)
        [listener] = hub._subscribers
        for n in range(MAX_PENDING_EVENTS + 1):
            await store.enqueue_rollout(n)
            await hub.publish()
        assert b'"everything":true' in await anext(slow)
        assert not listener._pending
        await slow.aclose()


async def test_a_store_that_stops_sends_its_listeners_home(server: LightningStoreServer) -> None:
    async with aiohttp.ClientSession() as session:
        heard = events(session, server)
        await anext(heard)
        stopping = asyncio.ensure_future(server.stop())
        assert [news async for _, news in heard] == []
        await asyncio.wait_for(stopping, TIMEOUT)
