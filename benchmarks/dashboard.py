"""Performance of the dashboard with 100,000 rollouts, and the load of 20 open pages on the store during a run.

    python -m benchmarks.dashboard [--rollouts 100000] [--database FILE]

Times are measured in headless Chromium, from the action to the frame that shows its result. An existing database is
used without changes. Writes benchmarks/results/dashboard.json.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
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
from agentlightning.types import EnqueueRolloutRequest, PromptTemplate, Span, TraceStatus

from .results import ROOT, write_result

PORT = 4799
URL = f"http://127.0.0.1:{PORT}/"
BATCH_SIZE = 500
TRIES = 5
PAGES = 20
MEASURED_SECONDS = 15.0
ROLLOUTS_PER_SECOND = 20
"""The pace of the run that the 20 pages show; each rollout has 6 spans."""
LARGE = "x" * 1_000_000


async def fill(path: Path, count: int) -> None:
    """Create rollouts with rewards, one in ten failed; the last has 200 spans, one of them 1 MB."""
    rng = random.Random(1)
    async with SqliteLightningStore(path, durability="process") as store:
        for version in range(count // BATCH_SIZE):
            prompt = PromptTemplate(template=f"Version {version} of the prompt for {{word}}")
            resources = await store.add_resources({"prompt": prompt})
            await store.enqueue_many_rollouts(
                [
                    EnqueueRolloutRequest(
                        input={"word": f"word {rng.random()}", "number": n},
                        mode=rng.choice(["train", "val"]),
                        resources_id=resources.resources_id,
                    )
                    for n in range(BATCH_SIZE)
                ]
            )
            claimed = await store.dequeue_many_rollouts(limit=BATCH_SIZE, worker_id=f"worker-{version % 8}")
            await store.add_many_spans([reward_span(rollout, rng.random()) for rollout in claimed])
            await asyncio.gather(*(finish(store, rollout, rng.random() < 0.1) for rollout in claimed))
        await create_long_rollout(store)


async def create_long_rollout(store: LightningStore) -> None:
    rollout = await store.start_rollout({"word": "long"})
    spans = [span(rollout, n, "step", {"number": n, "text": "x" * 500}) for n in range(1, 200)]
    await store.add_many_spans([*spans, span(rollout, 200, "large", {"text": LARGE})])
    await finish(store, rollout, failed=False)


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


async def finish(store: LightningStore, rollout: Any, failed: bool) -> None:
    await store.update_attempt(
        rollout.rollout_id,
        rollout.attempt.attempt_id,
        status="failed" if failed else "succeeded",
        metadata={"reason": f"ValueError: no label for {rollout.rollout_id}"} if failed else {},
    )


async def timed(page: Page, action: Callable[[], Awaitable[Any]], shown: str) -> float:
    """Return the seconds from `action` to the frame in which the JavaScript condition `shown` holds."""
    started = time.perf_counter()
    await action()
    # Not `wait_for_function`: the page's content security policy forbids evaluating strings.
    await page.evaluate(
        f"() => new Promise((done) => {{ const f = () => ({shown}) ? done() : requestAnimationFrame(f); f(); }})"
    )
    return time.perf_counter() - started


async def show_first_rows(page: Page) -> float:
    await page.goto("about:blank")
    return await timed(
        page, lambda: page.goto(URL + "#/rollouts"), "document.querySelectorAll('tbody .status').length > 10"
    )


async def show_overview(page: Page) -> float:
    await page.goto("about:blank")
    return await timed(page, lambda: page.goto(URL), "document.querySelector('.chart canvas') !== null")


async def filter_by_status(page: Page) -> float:
    await show_first_rows(page)
    shown = "document.querySelector('tbody .status.failed') && !document.querySelector('tbody .status.succeeded')"
    return await timed(page, lambda: page.evaluate("location.hash = '#/rollouts?status=failed'"), shown)


async def sort_by_reward(page: Page) -> float:
    await show_first_rows(page)
    shown = "document.querySelector('tbody .col-reward')?.textContent.startsWith('1')"
    return await timed(page, page.get_by_role("button", name="Reward").click, shown)


async def failed_first(page: Page) -> float:
    await show_first_rows(page)
    shown = "document.querySelector('tbody .status.failed') && !document.querySelector('tbody .status.succeeded')"
    return await timed(page, page.get_by_role("button", name="Failed first").click, shown)


async def search(page: Page) -> float:
    await show_first_rows(page)
    shown = "document.querySelector('tbody .col-input')?.textContent.includes('\"long\"')"
    return await timed(page, lambda: page.evaluate("location.hash = '#/rollouts?q=%22long%22'"), shown)


async def scroll_to_middle(page: Page) -> float:
    await show_first_rows(page)
    scroll = "(() => { const s = document.querySelector('.scroller'); s.scrollTop = s.scrollHeight / 2 })()"
    rows = "document.querySelectorAll('tbody .status').length > 10"
    shown = f"{rows} && document.querySelector('tbody tr').className === 'spacer-row'"
    return await timed(page, lambda: page.evaluate(scroll), shown)


async def show_long_trace(page: Page) -> float:
    async with LightningStoreClient(URL.rstrip("/")) as store:
        [rollout] = await store.query_rollouts(text_contains='"long"', limit=1)
    await page.goto("about:blank")
    shown = "document.querySelectorAll('[role=treeitem]').length > 5"
    return await timed(page, lambda: page.goto(f"{URL}#/rollouts/{rollout.rollout_id}"), shown)


async def show_live_update(page: Page) -> float:
    """Time from the store's response, which follows its commit, to the updated row."""
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
        return await timed(page, lambda: asyncio.sleep(0), f"{row}?.textContent.includes('Cancelled')")


async def run_rollouts(seconds: float) -> int:
    """Run rollouts at a steady pace; return their number."""
    count = 0
    async with LightningStoreClient(URL.rstrip("/")) as store:
        end_time = time.monotonic() + seconds
        while (started := time.monotonic()) < end_time:
            await store.enqueue_rollout({"word": "running"})
            claimed = await store.dequeue_rollout(worker_id="worker-1")
            assert claimed is not None
            await store.add_many_spans(
                [span(claimed, n, "step", {}) for n in range(2, 7)] + [reward_span(claimed, 0.5)]
            )
            await finish(store, claimed, failed=False)
            count += 1
            await asyncio.sleep(max(0.0, 1 / ROLLOUTS_PER_SECOND - (time.monotonic() - started)))
    return count


async def measure_open_pages(browser: Browser, server: psutil.Process, view: str) -> dict[str, float]:
    """Return the share of a core that the store spends on pages that show a run in progress."""

    async def use_cpu() -> tuple[float, int, float]:
        """Run rollouts; return the store's CPU seconds, the rollouts, and the elapsed seconds."""
        before, started = server.cpu_times(), time.monotonic()
        rollouts = await run_rollouts(MEASURED_SECONDS)
        after, ended = server.cpu_times(), time.monotonic()
        return after.user + after.system - before.user - before.system, rollouts, ended - started

    cpu_alone, rollouts_alone, _ = await use_cpu()
    contexts = [await browser.new_context() for _ in range(PAGES)]
    for context in contexts:
        page = await context.new_page()
        await page.goto(URL + view)
        await page.wait_for_selector(".connection.live")
    cpu, rollouts, seconds = await use_cpu()
    for context in contexts:
        await context.close()
    # A busy machine runs fewer rollouts in the same time, so the run's own cost is counted for each rollout.
    run_cpu = cpu_alone / rollouts_alone * rollouts
    return {"rollouts a second": rollouts / seconds, "the run": run_cpu / seconds, "pages": (cpu - run_cpu) / seconds}


def asset_sizes() -> dict[str, int]:
    files = [
        path
        for path in (ROOT / "agentlightning/dashboard").rglob("*")
        if path.suffix in (".js", ".css", ".html", ".svg")
    ]
    return {"files": len(files), "gzipped": sum(len(gzip.compress(path.read_bytes(), 9)) for path in files)}


ACTIONS = {
    "first rows": (show_first_rows, 1.0),
    "overview": (show_overview, 1.0),
    "filter by status": (filter_by_status, 0.5),
    "sort by reward": (sort_by_reward, 0.5),
    "failed first": (failed_first, 0.5),
    "search": (search, 0.5),
    "scroll to the middle": (scroll_to_middle, 0.5),
    "a rollout with 200 spans, one of 1 MB": (show_long_trace, 0.5),
    "live update": (show_live_update, 1.0),
}


async def measure(path: Path, rollouts: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "agentlightning.cli", "store", "--db", str(path), "--port", str(PORT)]
    process = subprocess.Popen([*command, "--log-level", "warning"])  # noqa: ASYNC220 - starting is fast
    try:
        async with LightningStoreClient(URL.rstrip("/")) as store:
            await store.statistics()
        async with async_playwright() as playwright:
            chromium = shutil.which("chromium")
            browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = await browser.new_page(viewport={"width": 1280, "height": 800})
            times = {}
            for name, (action, budget) in ACTIONS.items():
                tries = [await action(page) for _ in range(TRIES)]
                times[name] = {"median": statistics.median(tries), "worst": max(tries), "budget": budget}
                print(f"{name:<40} median {times[name]['median']:.3f} s, worst {max(tries):.3f} s (budget {budget} s)")
            server = psutil.Process(process.pid)
            await page.close()
            cost = {}
            for name, view in {"rollouts": "#/rollouts", "overview": "#/"}.items():
                cost[name] = await measure_open_pages(browser, server, view)
                print(f"{PAGES} pages of {name}: {cost[name]['pages']:.1%} of a core; {cost[name]}")
            await browser.close()
    finally:
        process.terminate()
        process.wait()
    return {
        "rollouts": rollouts,
        "tries": TRIES,
        "seconds": times,
        "core share with 20 open pages": cost,
        "size": asset_sizes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--database", type=Path)
    arguments = parser.parse_args()
    path = arguments.database or Path(tempfile.mkdtemp()) / "agl.db"
    if not path.exists():
        started = time.monotonic()
        asyncio.run(fill(path, arguments.rollouts))
        print(f"{arguments.rollouts} rollouts created in {time.monotonic() - started:.0f} s")
    result = asyncio.run(measure(path, arguments.rollouts))
    print(f"{result['size']['gzipped']:,} bytes of assets, gzipped")
    write_result("dashboard", result)


if __name__ == "__main__":
    main()
