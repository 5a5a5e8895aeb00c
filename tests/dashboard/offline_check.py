"""Open every view of a finished run without a network, and print the problems of each view as JSON.

Run in a network namespace of its own: unshare --map-root-user --net python -m tests.dashboard.offline_check DATABASE
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
import socket
import struct
import sys
from typing import Any

from playwright.async_api import Page, async_playwright

from agentlightning.store import LightningStoreClient
from tests.processes import Program, free_port

from .conftest import show_view, wait_until_reachable

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
BROWSER_ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
"""None that restrict the browser's own requests: the namespace has no network."""


def bring_up_loopback() -> None:
    """Bring the namespace's loopback interface up, and check that there is no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


async def list_views(url: str) -> list[tuple[str, str]]:
    """Return the URL fragment and the heading of every view, with a succeeded and a failed rollout."""
    async with LightningStoreClient(url.rstrip("/")) as store:
        [good] = await store.query_rollouts(text_contains='"wolf"', sort_order="desc", limit=1)
        [bad] = await store.query_rollouts(status_in=["failed"], limit=1)
    rollouts = [(f"#/rollouts/{good.rollout_id}{tab}", good.rollout_id) for tab in ("", "?tab=chat", "?tab=rewards")]
    return [
        ("#/", "Overview"),
        ("#/rollouts", "Rollouts"),
        *rollouts,
        (f"#/rollouts/{bad.rollout_id}", bad.rollout_id),
        ("#/resources", "Resources"),
        (f"#/resources?task={good.rollout_id},{bad.rollout_id}", "Resources"),
        ("#/workers", "Workers"),
    ]


async def check_views(page: Page, url: str) -> dict[str, list[str]]:
    """Return the console messages, failed requests, error messages and missing images of each view."""
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.on("response", lambda reply: problems.append(f"{reply.status}: {reply.url}") if reply.status >= 400 else None)
    await page.goto(url)
    await page.locator(".connection.live").wait_for()
    found: dict[str, list[str]] = {}
    for fragment, heading in await list_views(url):
        await show_view(page, fragment, heading)
        problems += [await one.inner_text() for one in await page.locator(".error-message[role=alert]").all()]
        problems += await page.evaluate(
            "() => [...document.images].filter((image) => !image.naturalWidth).map((image) => `image: ${image.src}`)"
        )
        found[fragment], problems[:] = list(problems), []
    return found


async def main(database: str) -> dict[str, Any]:
    bring_up_loopback()
    port = str(free_port())
    with Program("agentlightning.cli", "dashboard", "--db", database, "--port", port) as program:
        url = program.wait_for_line(r"(http://\S+/)")[1]
        wait_until_reachable(url)
        async with async_playwright() as playwright:
            chromium = shutil.which("chromium")
            browser = await playwright.chromium.launch(executable_path=chromium, args=BROWSER_ARGUMENTS)
            found = await check_views(await browser.new_page(viewport={"width": 1280, "height": 800}), url)
            await browser.close()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(sys.argv[1]))))
