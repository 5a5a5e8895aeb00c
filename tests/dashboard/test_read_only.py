"""Tests of finished runs: served read-only by `agl dashboard`, and written as one page by `agl export`."""

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
from agentlightning.store.factory import ReadOnlyStore
from tests.processes import Program, free_port

from .conftest import OpenPage, StoreProgram, show_view, wait_until_reachable

ROOT = Path(__file__).parent.parent.parent
NAMESPACE = ["unshare", "--map-root-user", "--net"]


def rollout_rows(database: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT count(*), max(end_time) FROM rollouts").fetchall()


async def test_dashboard_command_shows_a_finished_run_read_only(sample: StoreProgram, open_page: OpenPage) -> None:
    before = rollout_rows(sample.database)
    port = str(free_port())
    with Program("agentlightning.cli", "dashboard", "--db", str(sample.database), "--port", port) as dashboard:
        url = dashboard.wait_for_line(r"(http://\S+/)")[1]
        wait_until_reachable(url)
        page = await open_page(url + "#/rollouts?status=failed")
        await expect(page.get_by_text("2 matches")).to_be_visible()
        await expect(page.get_by_text("finished run, read-only")).to_be_visible()

        await page.locator("tbody input").first.check()
        await expect(page.get_by_role("button", name="Export as JSONL")).to_be_visible()
        await expect(page.get_by_role("button", name="Retry")).to_have_count(0)
        await page.close()
    assert rollout_rows(sample.database) == before


def test_no_view_needs_a_network(sample: StoreProgram, browser: object) -> None:
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], check=False).returncode:
        pytest.skip("this machine cannot create network namespaces; in other tests the browser resolves no other host")
    command = [*NAMESPACE, sys.executable, "-m", "tests.dashboard.offline_check", str(sample.database)]

    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120).stdout

    found = json.loads(printed)
    assert len(found) == 9
    assert {view: problems for view, problems in found.items() if problems} == {}


async def test_read_only_store_refuses_changes(sample: StoreProgram) -> None:
    async with ReadOnlyStore(sample.database) as store:
        assert (await store.query_rollouts(limit=0)).total == 23
        with pytest.raises(Forbidden, match="read-only"):
            await store.enqueue_rollout("task")


@pytest.mark.parametrize("name", ["notes.db", "missing.db"])
def test_file_that_is_no_store_database_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.db").write_text("not a database, but a text that is long enough to look like one" * 20)
    with pytest.raises(StoreUnavailable, match=name):
        ReadOnlyStore(tmp_path / name)


async def test_exported_page_shows_the_run_without_a_server(
    sample: StoreProgram, open_page: OpenPage, tmp_path: Path
) -> None:
    written = tmp_path / "run.html"
    output = await run_command("export", str(sample.database), "--html", str(written))
    assert "23 of 23 rollouts" in output

    page = await open_page(written.as_uri())
    await expect(page.get_by_role("link", name="Succeeded 19")).to_be_visible()
    await expect(page.get_by_text("exported ")).to_be_visible()

    await show_view(page, "#/rollouts?q=lime&sort=-reward", "Rollouts")
    await expect(page.get_by_text("2 matches")).to_be_visible()
    await page.locator("tbody a").first.click()
    await expect(page.get_by_role("group", name="Attempts")).to_contain_text("no label for 'lime'")
    await show_view(page, "#/rollouts?q=hostile", "Rollouts")
    await page.locator("tbody a").first.click()
    await expect(page.locator("main")).to_contain_text("<script>document.title='owned'</script>")
    assert "owned" not in await page.title()
    await show_view(page, "#/resources", "Resources")
    await expect(page.get_by_text("Tasks run with both versions")).to_be_visible()
    await show_view(page, "#/workers", "Workers")
    await expect(page.get_by_role("cell", name="runner-1")).to_be_visible()


async def test_export_reads_a_running_store_by_its_url(sample: StoreProgram, tmp_path: Path) -> None:
    output = await run_command("export", sample.url, "--html", str(tmp_path / "run.html"), "--newest", "5")
    assert "5 of 23 rollouts" in output


async def run_command(*arguments: str) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, main, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output
