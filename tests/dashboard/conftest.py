"""A browser, a store with a finished run, and pages that must not complain.

Every page of `look` is watched: an error in its console, a request that leaves this machine or one that fails make
its test fail. The browser knows no name of another machine.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Request, async_playwright, expect

from tests.processes import PATIENCE, Program, free_port

from .a_run import whole_run

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
AWAY = "Failed to load resource"
"""What Chromium says of a store that does not answer; a test that stops one expects it."""

Look = Callable[..., Awaitable[Page]]

expect.set_options(timeout=PATIENCE * 1_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/dashboard" in item.path.as_posix() and asyncio.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        missing = "there is no chromium: scripts/browser installs it"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        await browser.close()


class Served:
    """A store of its own process, over a database of its own."""

    def __init__(self, database: Path, *arguments: str) -> None:
        self.database = database
        self.arguments = arguments
        self.port = str(free_port())
        self.start()

    def start(self) -> None:
        """Also again, on the port it had."""
        self._program = Program(
            "agentlightning.cli", "store", "--db", str(self.database), "--port", self.port, *self.arguments
        )
        self.url = self._program.wait_for_line(r"(http://[^\s,]+)")[1] + "/"
        wait_until_served(self.url)

    def stop(self) -> None:
        self._program.kill()


def wait_until_served(url: str) -> None:
    """Until somebody listens there; it says its URL a little earlier."""
    host, port = urlsplit(url).netloc.split(":")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError):
            socket.create_connection((host, int(port))).close()
            return
        time.sleep(0.02)
    raise TimeoutError(url)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """An empty store."""
    store = Served(tmp_path / "agl.db")
    yield store
    store.stop()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A store with a whole run in it, which tests only look at."""
    store = Served(tmp_path_factory.mktemp("finished") / "agl.db")
    asyncio.run(whole_run(store.url))
    yield store
    store.stop()


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def contexts(browser: Browser) -> AsyncIterator[Contexts]:
    contexts = Contexts(browser)
    yield contexts
    await contexts.close()


class Contexts:
    """One context for each way to look, kept from test to test: its cache makes all but the first page quick."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._made: dict[str, BrowserContext] = {}

    async def get(self, **given: Any) -> BrowserContext:
        name = repr(sorted(given.items()))
        if name not in self._made:
            self._made[name] = await self._browser.new_context(**given)
        return self._made[name]

    async def close(self) -> None:
        for context in self._made.values():
            await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def look(contexts: Contexts) -> AsyncIterator[Look]:
    """`await look(url, **context)` opens a page; `expecting=` names what its console may say.

    A page that shows a store keeps one of the six connections that a browser opens to it: close those done with.
    """
    complaints: list[str] = []
    opened: list[Page] = []

    async def open_page(url: str, *, expecting: str = "nothing at all", **given: Any) -> Page:
        page = await (await contexts.get(**{"viewport": {"width": 1280, "height": 800}} | given)).new_page()
        opened.append(page)
        page.set_default_timeout(PATIENCE * 1_000)

        def hear(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and expecting not in message.text:
                complaints.append(message.text)

        def see(request: Request) -> None:
            if not request.url.startswith(("http://127.0.0.1:", "file:", "blob:", "data:")):
                complaints.append(f"asked for {request.url}")

        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", see)
        await page.goto(url)
        return page

    yield open_page
    for page in opened:
        if not page.is_closed():
            with suppress(Error):
                await page.evaluate("localStorage.clear()")
            await page.close()
    assert complaints == []
