"""A run that is over: opened read-only, and written as one page."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.async_api import expect

from agentlightning.cli import main
from agentlightning.errors import Forbidden, StoreUnavailable
from agentlightning.store.db.read_only import FinishedRun
from tests.processes import Program, free_port

from .conftest import Look, Served, wait_until_served

ROOT = Path(__file__).parent.parent.parent


def rows_of(database: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT count(*), max(end_time) FROM rollouts").fetchall()


async def test_a_finished_run_is_looked_at_and_not_changed(finished: Served, look: Look) -> None:
    before = rows_of(finished.database)
    port = str(free_port())
    with Program("agentlightning.cli", "dashboard", "--db", str(finished.database), "--port", port) as dashboard:
        url = dashboard.wait_for_line(r"(http://\S+/)")[1]
        wait_until_served(url)
        page = await look(url + "#/rollouts?status=failed")
        await expect(page.get_by_text("2 fit")).to_be_visible()
        await expect(page.get_by_text("finished run, read-only")).to_be_visible()

        await page.locator("tbody input").first.check()
        await expect(page.get_by_role("button", name="Export as JSONL")).to_be_visible()
        await expect(page.get_by_role("button", name="Retry")).to_have_count(0)
        await page.close()
    assert rows_of(finished.database) == before


NAMESPACE = ["unshare", "--map-root-user", "--net"]


def test_without_a_network_nothing_is_missing_from_any_page(finished: Served, browser: object) -> None:
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], check=False).returncode:
        pytest.skip("this machine makes no network namespaces; the other tests' browser knows no names of others")
    command = [*NAMESPACE, sys.executable, "-m", "tests.dashboard.alone", str(finished.database)]

    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120).stdout

    found = json.loads(printed)
    assert len(found) == 9
    assert {view: complaints for view, complaints in found.items() if complaints} == {}


async def test_every_change_of_a_finished_run_is_refused(finished: Served) -> None:
    async with FinishedRun(finished.database) as run:
        assert (await run.query_rollouts(limit=0)).total == 23
        with pytest.raises(Forbidden, match="opened to be looked at"):
            await run.enqueue_rollout("task")


def test_what_is_not_a_stores_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, but a text that is long enough to look like one" * 20)
    for missing in ("notes.db", "nowhere.db"):
        with pytest.raises(StoreUnavailable, match=r"not the database of a store|is it there"):
            FinishedRun(tmp_path / missing)


async def test_a_run_is_one_page_that_asks_nobody_for_anything(finished: Served, look: Look, tmp_path: Path) -> None:
    written = tmp_path / "run.html"
    result = await _in_thread("export", str(finished.database), "--html", str(written))
    assert "23 of 23 rollouts" in result

    page = await look(written.as_uri())
    await expect(page.get_by_role("link", name="succeeded 19")).to_be_visible()
    await expect(page.get_by_text("exported ")).to_be_visible()

    await page.evaluate("location.hash = '#/rollouts?q=lime&sort=-reward'")
    await expect(page.get_by_text("2 fit")).to_be_visible()
    await page.locator("tbody a").first.click()
    await expect(page.get_by_role("group", name="Attempts")).to_contain_text("no label for 'lime'")
    await page.evaluate("location.hash = '#/rollouts?q=hostile'")
    await page.locator("tbody a").first.click()
    await expect(page.locator("main")).to_contain_text("<script>document.title='owned'</script>")
    assert "owned" not in await page.title()
    await page.evaluate("location.hash = '#/resources'")
    await expect(page.get_by_text("The same task under both")).to_be_visible()
    await page.evaluate("location.hash = '#/workers'")
    await expect(page.get_by_role("cell", name="runner-1")).to_be_visible()


async def test_a_store_that_runs_is_exported_by_its_url(finished: Served, tmp_path: Path) -> None:
    result = await _in_thread("export", finished.url, "--html", str(tmp_path / "run.html"), "--newest", "5")
    assert "5 of 23 rollouts" in result


async def _in_thread(*arguments: str) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, main, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output
