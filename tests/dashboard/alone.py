"""Opens every view of a finished run where there is no network, and prints what is wrong with it, as JSON.

Run in a network namespace of its own: unshare --map-root-user --net python -m tests.dashboard.alone DATABASE
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

from .conftest import wait_until_served

SIOCSIFFLAGS, IFF_UP = 0x8914, 1
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
"""Nothing that keeps the browser from asking: there is nobody to ask."""


def only_loopback() -> None:
    """Bring the namespace's loopback up; make sure that there is nothing else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


async def views_of(url: str) -> list[str]:
    """The hash of every view, with one rollout that succeeded and one that failed."""
    async with LightningStoreClient(url.rstrip("/")) as store:
        [good] = await store.query_rollouts(text_contains='"wolf"', sort_order="desc", limit=1)
        [bad] = await store.query_rollouts(status_in=["failed"], limit=1)
    rollouts = [f"#/rollouts/{good.rollout_id}{tab}" for tab in ("", "?tab=chat", "?tab=rewards")]
    both = f"#/resources?task={good.rollout_id},{bad.rollout_id}"
    return ["#/", "#/rollouts", *rollouts, f"#/rollouts/{bad.rollout_id}", "#/resources", both, "#/workers"]


async def complaints(page: Page, url: str) -> list[str]:
    """What is missing from the view, or was said about it."""
    found: list[str] = []
    page.on("console", lambda message: found.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.append(f"error: {error}"))
    page.on("requestfailed", lambda request: found.append(f"failed: {request.url}"))
    page.on("response", lambda answer: found.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
    await page.goto(url)
    await page.locator(".connection.live").wait_for()
    await page.locator("main h1").wait_for()
    await page.locator(".waiting").first.wait_for(state="detached")
    found += [f"problem: {await one.inner_text()}" for one in await page.locator(".problem[role=alert]").all()]
    found += await page.evaluate(
        "() => [...document.images].filter((image) => !image.naturalWidth).map((image) => `image: ${image.src}`)"
    )
    return found


async def main(database: str) -> dict[str, Any]:
    only_loopback()
    port = str(free_port())
    with Program("agentlightning.cli", "dashboard", "--db", database, "--port", port) as program:
        url = program.wait_for_line(r"(http://\S+/)")[1]
        wait_until_served(url)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
            context = await browser.new_context(viewport={"width": 1280, "height": 800})
            found = {}
            for view in await views_of(url):
                page = await context.new_page()
                found[view] = await complaints(page, url + view)
                await page.close()
            await browser.close()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(sys.argv[1]))))
