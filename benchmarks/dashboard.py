"""How fast the dashboard is with 100,000 rollouts, and what 20 open pages cost the store while a run goes on.

    python -m benchmarks.dashboard [--rollouts 100000] [--database FILE]

Times are read in a real headless Chromium, from the click to the frame that shows what was asked for. Writes
benchmarks/results/dashboard.json. A database that is there already is used as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
from playwright.async_api import Browser, Page, async_playwright

from agentlightning.store import LightningStore, LightningStoreClient, SqliteLightningStore
from agentlightning.types import EnqueueRolloutRequest, Span, TraceStatus

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/dashboard.json"
PORT = 4799
URL = f"http://127.0.0.1:{PORT}/"
AT_ONCE = 500
TRIES = 5
PAGES = 20
WATCHED_SECONDS = 15.0
ROLLOUTS_A_SECOND = 20
"""How fast the run goes on that 20 pages look at; each with 6 spans."""
LARGE = "x" * 1_000_000


async def fill(path: Path, many: int) -> None:
    """A store of so many rollouts with rewards; one in ten has failed. The last has 200 spans, one of a megabyte."""
    chance = random.Random(1)
    async with SqliteLightningStore(path, durability="process") as store:
        for version in range(many // AT_ONCE):
            resources = await store.add_resources({"prompt": f"Version {version} of the prompt for {{word}}"})
            await store.enqueue_many_rollouts(
                [
                    EnqueueRolloutRequest(
                        input={"word": f"word {chance.random()}", "number": n},
                        mode=chance.choice(["train", "val"]),
                        resources_id=resources.resources_id,
                    )
                    for n in range(AT_ONCE)
                ]
            )
            claimed = await store.dequeue_many_rollouts(limit=AT_ONCE, worker_id=f"worker-{version % 8}")
            await store.add_many_spans([reward_span(rollout, chance.random()) for rollout in claimed])
            await asyncio.gather(*(end(store, rollout, chance.random() < 0.1) for rollout in claimed))
        await long_rollout(store)


async def long_rollout(store: LightningStore) -> None:
    rollout = await store.start_rollout({"word": "long"})
    spans = [span(rollout, n, "step", {"number": n, "text": "x" * 500}) for n in range(1, 200)]
    await store.add_many_spans([*spans, span(rollout, 200, "large", {"text": LARGE})])
    await end(store, rollout, failed=False)


def span(rollout: Any, n: int, name: str, attributes: dict[str, Any]) -> Span:
    now = time.time()
    return Span(
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        trace_id=f"{1:032x}",
        span_id=f"{n:016x}",
        name=name,
        attributes=attributes,
        status=TraceStatus(status_code="OK"),
        start_time=now + n / 100,
        end_time=now + n / 100 + 0.05,
    )


def reward_span(rollout: Any, reward: float) -> Span:
    return span(rollout, 1, "agentlightning.annotation", {"agentlightning.reward.0.value": reward})


async def end(store: LightningStore, rollout: Any, failed: bool) -> None:
    await store.update_attempt(
        rollout.rollout_id,
        rollout.attempt.attempt_id,
        status="failed" if failed else "succeeded",
        metadata={"reason": f"ValueError: no label for {rollout.rollout_id}"} if failed else {},
    )


# What is measured


async def timed(page: Page, act: Callable[[], Awaitable[Any]], shown: str) -> float:
    """Seconds from `act` to the frame in which the JavaScript condition `shown` holds."""
    began = time.perf_counter()
    await act()
    # Not `wait_for_function`: the page's policy lets nobody evaluate text, its tester included.
    await page.evaluate(
        f"() => new Promise((done) => {{ (function look() {{ ({shown}) ? done() : requestAnimationFrame(look) }})() }})"
    )
    return time.perf_counter() - began


async def first_rows(page: Page) -> float:
    await page.goto("about:blank")
    return await timed(
        page, lambda: page.goto(URL + "#/rollouts"), "document.querySelectorAll('tbody .status').length > 10"
    )


async def overview(page: Page) -> float:
    await page.goto("about:blank")
    return await timed(page, lambda: page.goto(URL), "document.querySelector('.chart canvas') !== null")


async def filtered(page: Page) -> float:
    await first_rows(page)
    shown = "document.querySelector('tbody .status.failed') && !document.querySelector('tbody .status.succeeded')"
    return await timed(page, lambda: page.evaluate("location.hash = '#/rollouts?status=failed'"), shown)


async def sorted_by_reward(page: Page) -> float:
    await first_rows(page)
    shown = "document.querySelector('tbody .col-reward')?.textContent.startsWith('1')"
    return await timed(page, page.get_by_role("button", name="Reward").click, shown)


async def failed_first(page: Page) -> float:
    await first_rows(page)
    shown = "document.querySelector('tbody .status.failed') && !document.querySelector('tbody .status.succeeded')"
    return await timed(page, page.get_by_role("button", name="Failed first").click, shown)


async def searched(page: Page) -> float:
    await first_rows(page)
    shown = "document.querySelector('tbody .col-input')?.textContent.includes('\"long\"')"
    return await timed(page, lambda: page.evaluate("location.hash = '#/rollouts?q=%22long%22'"), shown)


async def scrolled_to_the_middle(page: Page) -> float:
    await first_rows(page)
    scroll = "(() => { const s = document.querySelector('.scroller'); s.scrollTop = s.scrollHeight / 2 })()"
    rows = "document.querySelectorAll('tbody .status').length > 10"
    shown = f"{rows} && document.querySelector('tbody tr').className === 'space'"
    return await timed(page, lambda: page.evaluate(scroll), shown)


async def long_trace(page: Page) -> float:
    async with LightningStoreClient(URL.rstrip("/")) as store:
        [rollout] = await store.query_rollouts(text_contains='"long"', limit=1)
    await page.goto("about:blank")
    shown = "document.querySelectorAll('[role=treeitem]').length > 5"
    return await timed(page, lambda: page.goto(f"{URL}#/rollouts/{rollout.rollout_id}"), shown)


async def live_update(page: Page) -> float:
    """From the store's answer, which follows its commit, to the row that shows it."""
    async with LightningStoreClient(URL.rstrip("/")) as store:
        rollout = await store.enqueue_rollout({"word": "live"})
        await page.goto("about:blank")
        await page.goto(URL + "#/rollouts")
        await page.wait_for_selector(f"tr:has-text('{rollout.rollout_id}')")
        await page.wait_for_selector(".connection.live")
        await asyncio.sleep(1)
        await store.update_rollout(rollout.rollout_id, status="cancelled")
        rows = "[...document.querySelectorAll('tbody tr')]"
        row = f"{rows}.find((row) => row.textContent.includes('{rollout.rollout_id}'))"
        return await timed(page, lambda: asyncio.sleep(0), f"{row}?.textContent.includes('cancelled')")


async def go_on(seconds: float) -> int:
    """A run that goes on for so long, at a steady pace; how many rollouts it made."""
    made = 0
    async with LightningStoreClient(URL.rstrip("/")) as store:
        until = time.monotonic() + seconds
        while (began := time.monotonic()) < until:
            rollout = await store.enqueue_rollout({"word": "going on"})
            claimed = await store.dequeue_rollout(worker_id="worker-1")
            assert claimed is not None
            await store.add_many_spans(
                [span(claimed, n, "step", {}) for n in range(2, 7)] + [reward_span(claimed, 0.5)]
            )
            await end(store, claimed, failed=False)
            made += rollout is not None
            await asyncio.sleep(max(0.0, 1 / ROLLOUTS_A_SECOND - (time.monotonic() - began)))
    return made


async def cost_of_pages(browser: Browser, server: psutil.Process, view: str) -> dict[str, float]:
    """The store's share of a core that pages take which look on at a run."""

    async def used() -> tuple[float, int, float]:
        """Seconds of a core, rollouts made meanwhile, and seconds that passed."""
        before, began = server.cpu_times(), time.monotonic()
        made = await go_on(WATCHED_SECONDS)
        after, ended = server.cpu_times(), time.monotonic()
        return after.user + after.system - before.user - before.system, made, ended - began

    alone, made_alone, _ = await used()
    contexts = [await browser.new_context() for _ in range(PAGES)]
    for context in contexts:
        page = await context.new_page()
        await page.goto(URL + view)
        await page.wait_for_selector(".connection.live")
    watched, made, seconds = await used()
    for context in contexts:
        await context.close()
    # Where the machine is busy, fewer rollouts are made in the same time: only what is beyond their cost is the pages'.
    return {
        "rollouts a second": made / seconds,
        "the run": alone / made_alone * made / seconds,
        "pages": (watched - alone / made_alone * made) / seconds,
    }


def sizes() -> dict[str, int]:
    files = [
        path
        for path in (ROOT / "agentlightning/dashboard").rglob("*")
        if path.suffix in (".js", ".css", ".html", ".svg")
    ]
    return {"files": len(files), "gzipped": sum(len(gzip.compress(path.read_bytes(), 9)) for path in files)}


MEASURED = {
    "first rows": (first_rows, 1.0),
    "overview": (overview, 1.0),
    "filter by status": (filtered, 0.5),
    "sort by reward": (sorted_by_reward, 0.5),
    "failed first": (failed_first, 0.5),
    "search": (searched, 0.5),
    "scroll to the middle": (scrolled_to_the_middle, 0.5),
    "a rollout with 200 spans, one of 1 MB": (long_trace, 0.5),
    "live update": (live_update, 1.0),
}


async def measure(path: Path, rollouts: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "agentlightning.cli", "store", "--db", str(path), "--port", str(PORT)]
    process = subprocess.Popen([*command, "--log-level", "warning"])  # noqa: ASYNC220 - it takes no time
    try:
        async with LightningStoreClient(URL.rstrip("/")) as store:
            await store.statistics()
        async with async_playwright() as playwright:
            chromium = shutil.which("chromium")
            browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = await browser.new_page(viewport={"width": 1280, "height": 800})
            times = {}
            for name, (take, budget) in MEASURED.items():
                tries = [await take(page) for _ in range(TRIES)]
                times[name] = {"median": statistics.median(tries), "worst": max(tries), "budget": budget}
                print(f"{name:<40} median {times[name]['median']:.3f} s, worst {max(tries):.3f} s (budget {budget} s)")
            server = psutil.Process(process.pid)
            await page.close()
            cost = {}
            for name, view in {"rollouts": "#/rollouts", "overview": "#/"}.items():
                cost[name] = await cost_of_pages(browser, server, view)
                print(f"{PAGES} pages of {name}: {cost[name]['pages']:.1%} of a core; {cost[name]}")
            await browser.close()
    finally:
        process.terminate()
        process.wait()
    return {
        "rollouts": rollouts,
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "tries": TRIES,
        "seconds": times,
        "core share with 20 open pages": cost,
        "load": psutil.getloadavg()[0],
        "size": sizes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--database", type=Path)
    given = parser.parse_args()
    path = given.database or Path(tempfile.mkdtemp()) / "agl.db"
    if not path.exists():
        began = time.monotonic()
        asyncio.run(fill(path, given.rollouts))
        print(f"{given.rollouts} rollouts made in {time.monotonic() - began:.0f} s")
    result = asyncio.run(measure(path, given.rollouts))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULTS.relative_to(ROOT)}; {result['size']['gzipped']:,} bytes gzipped in all")


if __name__ == "__main__":
    main()
