"""The dashboard's files over HTTP: strict policy, caching, compression."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from agentlightning.store import InMemoryLightningStore, LightningStoreServer
from agentlightning.store.http.assets import DASHBOARD, assets

from ..faults.lossy import served

ROOT = Path(__file__).parent.parent.parent
MAX_SIZE = 150 * 1024


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    async with served(InMemoryLightningStore()) as server:
        yield server


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


def test_dashboard_is_smaller_than_150_kilobytes() -> None:
    assert sum(len(asset.compressed) for asset in assets().values()) < MAX_SIZE


def test_vendored_libraries_are_unchanged() -> None:
    subprocess.run([sys.executable, ROOT / "scripts/vendor", "--check"], check=True)


def test_no_module_creates_markup_from_text_or_sends_requests_elsewhere() -> None:
    own = [path for path in DASHBOARD.rglob("*.js") if "vendor" not in path.parts]
    for path in own:
        text = path.read_text()
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"):
            assert forbidden not in text, f"{path.name}: {forbidden}"


@pytest.mark.parametrize("name", ["", "dashboard/main.js", "dashboard/style/base.css"])
async def test_files_have_a_strict_policy_and_an_etag(
    server: LightningStoreServer, session: aiohttp.ClientSession, name: str
) -> None:
    url = f"{server.endpoint}/{name}"
    content = assets()[name.removeprefix("dashboard/") or "index.html"].content
    async with session.get(url, headers={"Accept-Encoding": "identity"}) as response:
        assert await response.read() == content
    async with session.head(url) as response:
        assert response.status == 200
    async with session.get(url) as response:
        assert response.status == 200
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert gzip.decompress(await response.read()) == content
        etag = response.headers["ETag"]
    async with session.get(url, headers={"If-None-Match": etag}) as response:
        assert response.status == 304


async def test_versioned_files_are_cached_permanently(
    server: LightningStoreServer, session: aiohttp.ClientSession
) -> None:
    async with session.get(server.endpoint + "/", headers={"Accept-Encoding": "identity"}) as response:
        assert response.headers["Cache-Control"] == "no-cache"
        urls = re.findall(r'(?:href|src)="(dashboard/[^"]+)"', await response.text())
    assert len(urls) > 40
    for url in urls:
        async with session.get(f"{server.endpoint}/{url}") as response:
            assert response.status == 200, url
            assert "immutable" in response.headers["Cache-Control"]


@pytest.mark.parametrize("path", ["/dashboard/nothing.js", "/dashboard/../store/sql/base.py", "/dashboard/exported.py"])
async def test_other_files_are_not_served(
    server: LightningStoreServer, session: aiohttp.ClientSession, path: str
) -> None:
    async with session.get(server.endpoint + path) as response:
        assert response.status == 404


async def test_token_protects_the_data_but_not_the_page(session: aiohttp.ClientSession) -> None:
    async with served(InMemoryLightningStore(), token="0123456789abcdef") as server:
        for path, status in {"/": 200, "/dashboard/main.js": 200, "/summary": 401, "/events": 401}.items():
            async with session.get(server.endpoint + path) as response:
                assert response.status == status, path
