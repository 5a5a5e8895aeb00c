"""Fixtures of the dashboard's tests: a browser, stores, and pages that fail their test on an error.

A test fails if one of its pages logs an error or a warning, or requests anything from outside this machine. The
browser resolves no other host.
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

from agentlightning.store import InMemoryLightningStore, LightningStoreServer
from tests.processes import TIMEOUT, Program, free_port

from .sample_run import create_sample_run

BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
UNREACHABLE = "Failed to load resource"
"""Chromium's console message for an unreachable store, expected by tests that stop one."""

OpenPage = Callable[..., Awaitable[Page]]

expect.set_options(timeout=TIMEOUT * 1_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the asynchronous tests in the session's event loop, where the browser is."""
    for item in items:
        if "tests/dashboard" in item.path.as_posix() and asyncio.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        missing = "chromium is not installed; run scripts/browser"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=BROWSER_ARGUMENTS)
        yield browser
        await browser.close()


class StoreProgram:
    """A store in its own process, on its own database file."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self._port = str(free_port())
        self.start()

    def start(self) -> None:
        """Start the store, on the same port as before."""
        arguments = "--db", str(self.database), "--port", self._port
        self._program = Program("agentlightning.cli", "store", *arguments)
        self.url = self._program.wait_for_line(r"(http://[^\s,]+)")[1] + "/"
        wait_until_reachable(self.url)

    def stop(self) -> None:
        self._program.kill()


def wait_until_reachable(url: str) -> None:
    """Return when the server accepts connections; it prints its URL slightly earlier."""
    host, port = urlsplit(url).netloc.split(":")
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError):
            socket.create_connection((host, int(port))).close()
            return
        time.sleep(0.02)
    raise TimeoutError(url)


@pytest_asyncio.fixture(loop_scope="session")
async def store() -> AsyncIterator[LightningStoreServer]:
    """An empty store, served from this process."""
    server = LightningStoreServer(InMemoryLightningStore(), port=0)
    await server.start()
    yield server
    await server.close()


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProgram]:
    """A store with the sample run, which tests do not change."""
    store = StoreProgram(tmp_path_factory.mktemp("sample") / "agl.db")
    asyncio.run(create_sample_run(store.url))
    yield store
    store.stop()


class BrowserContexts:
    """One browser context for each set of options, kept so that its cache makes later pages load quickly."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: dict[str, BrowserContext] = {}

    async def get(self, **options: Any) -> BrowserContext:
        key = repr(sorted(options.items()))
        if key not in self._contexts:
            self._contexts[key] = await self._browser.new_context(**options)
        return self._contexts[key]

    async def close(self) -> None:
        for context in self._contexts.values():
            await context.close()


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def contexts(browser: Browser) -> AsyncIterator[BrowserContexts]:
    contexts = BrowserContexts(browser)
    yield contexts
    await contexts.close()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(contexts: BrowserContexts) -> AsyncIterator[OpenPage]:
    """`await open_page(url, **context_options)` opens a page; `expecting=` is a console message to ignore.

    Each page of a store uses one of the six connections that a browser opens to it: close unused pages.
    """
    problems: list[str] = []
    pages: list[Page] = []

    async def open_page(url: str, *, expecting: str = "nothing at all", **options: Any) -> Page:
        page = await (await contexts.get(**{"viewport": {"width": 1280, "height": 800}} | options)).new_page()
        pages.append(page)
        page.set_default_timeout(TIMEOUT * 1_000)

        def check_message(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and expecting not in message.text:
                problems.append(message.text)

        def check_request(request: Request) -> None:
            if not request.url.startswith(("http://127.0.0.1:", "file:", "blob:", "data:")):
                problems.append(f"request to {request.url}")

        page.on("console", check_message)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", check_request)
        await page.goto(url)
        return page

    yield open_page
    for page in pages:
        if not page.is_closed():
            with suppress(Error):
                await page.evaluate("localStorage.clear()")
            await page.close()
    assert problems == []


async def show_view(page: Page, fragment: str, heading: str) -> None:
    """Go to another view of an open page; return when it is loaded."""
    await page.evaluate("(fragment) => (location.hash = fragment)", fragment)
    await expect(page.locator("main h1")).to_have_text(heading)
    await expect(page.locator(".loading")).to_have_count(0)
