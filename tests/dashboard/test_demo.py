"""Test of `agl demo`, watched in a browser while it runs."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from agentlightning.cli.demo.task import PROMPTS, TASKS
from tests.processes import TIMEOUT, Program
from tests.scripted_model import Call, ScriptedModel

from .conftest import UNREACHABLE, OpenPage, wait_until_reachable

LABELS = {task["word"]: task["label"] for task in TASKS}
ALL = len(PROMPTS) * len(TASKS)
HALF = ALL // 2


class PausingModel:
    """A model that is right with four examples, and pauses at half of the calls and before the last.

    While it pauses it answers no call, so up to four rollouts in progress wait too.
    """

    def __init__(self) -> None:
        self.resumed = {HALF: threading.Event(), ALL: threading.Event()}

    def __call__(self, call: Call) -> str:
        if call.number in self.resumed:
            assert self.resumed[call.number].wait(TIMEOUT)
        return LABELS[call.question] if len(call.body["messages"]) == 9 else "I am not sure."


@pytest.fixture
def pausing_model() -> Iterator[PausingModel]:
    model = PausingModel()
    yield model
    for event in model.resumed.values():
        event.set()


async def test_chart_updates_while_the_demo_runs(
    pausing_model: PausingModel, open_page: OpenPage, tmp_path: Path
) -> None:
    with (
        ScriptedModel(pausing_model, takes_call=True) as model,
        Program("agentlightning.cli", "demo", "--folder", str(tmp_path), "--base-url", model.base_url) as demo,
    ):
        url = demo.wait_for_line(r"(http://127\.0\.0\.1:\d+/?)(?=\s|$)")[1]  # the model's URL ends in /v1
        wait_until_reachable(url)
        page = await open_page(url, expecting=UNREACHABLE)
        await expect(page.get_by_role("link", name=re.compile("Succeeded 5[6-9]$"))).to_be_visible()
        curve = page.get_by_role("img", name=re.compile("Mean reward over time: no mode from 0 to 0$"))
        await expect(curve).to_be_visible()
        half = await page.locator(".chart canvas").first.screenshot()

        pausing_model.resumed[HALF].set()

        await expect(page.get_by_role("link", name=re.compile("Succeeded 11[6-9]$"))).to_be_visible()
        curve = page.get_by_role("img", name=re.compile("Mean reward over time: no mode from 0 to 1$"))
        await expect(curve).to_be_visible()
        versions = page.get_by_role("img", name="Mean reward by resources version: reward from 0 to 1")
        await expect(versions).to_be_visible()
        assert await page.locator(".chart canvas").first.screenshot() != half

        pausing_model.resumed[ALL].set()
        assert demo.wait() == 0
