"""`agl demo`, watched in a browser while it works."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from agentlightning.cli.demo.task import PROMPTS, TASKS
from tests.processes import PATIENCE, Program
from tests.scripted_model import Call, ScriptedModel

from .conftest import AWAY, Look

LABELS = {task["word"]: task["label"] for task in TASKS}
ALL = len(PROMPTS) * len(TASKS)
HALF = ALL // 2


class Patient:
    """A model that knows with four examples; it waits in the middle and before the end until it is told to go on.

    While it waits it answers nobody, so the rollouts that are under way at the moment wait too, up to four.
    """

    def __init__(self) -> None:
        self.seen = {HALF: threading.Event(), ALL: threading.Event()}

    def __call__(self, call: Call) -> str:
        if call.number in self.seen:
            assert self.seen[call.number].wait(PATIENCE)
        return LABELS[call.question] if len(call.body["messages"]) == 9 else "I am not sure."


@pytest.fixture
def patient() -> Iterator[Patient]:
    patient = Patient()
    yield patient
    for event in patient.seen.values():
        event.set()


async def test_a_demo_is_watched_while_it_works_and_its_curve_moves(
    patient: Patient, look: Look, tmp_path: Path
) -> None:
    with (
        ScriptedModel(patient, takes_call=True) as model,
        Program("agentlightning.cli", "demo", "--folder", str(tmp_path), "--base-url", model.base_url) as demo,
    ):
        url = demo.wait_for_line(r"^Watch it in a browser, while it lasts: (\S+)")[1]
        page = await look(url, expecting=AWAY)
        await expect(page.get_by_role("link", name=re.compile("succeeded 5[6-9]$"))).to_be_visible()
        await expect(
            page.get_by_role("img", name=re.compile("Mean reward by step: no mode from 0 to 0$"))
        ).to_be_visible()
        half = await page.locator(".chart canvas").first.screenshot()

        patient.seen[HALF].set()

        await expect(page.get_by_role("link", name=re.compile("succeeded 11[6-9]$"))).to_be_visible()
        await expect(
            page.get_by_role("img", name=re.compile("Mean reward by step: no mode from 0 to 1$"))
        ).to_be_visible()
        versions = page.get_by_role("img", name="Mean reward by version of the resources: reward from 0 to 1")
        await expect(versions).to_be_visible()
        assert await page.locator(".chart canvas").first.screenshot() != half

        patient.seen[ALL].set()
        assert demo.wait() == 0
