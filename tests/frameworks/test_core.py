"""The core of the matrix: what most agents are made of, as the docs' pages print it, in environments of its own."""

from __future__ import annotations

import re

import pytest

from .agents import CORE, ENVIRONMENTS, PAGES, pages_without_an_environment
from .run import reports


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("environment", CORE)
def test_rollouts_at_once_leave_their_own_calls_tools_and_rewards(environment: str) -> None:
    ran = list(reports(environment))

    assert [problem for report in ran for problem in report["problems"]] == []
    assert {report["page"] for report in ran} == {page.name for page in ENVIRONMENTS[environment]}


def test_the_agents_of_every_page_are_carried_out_somewhere() -> None:
    assert list(pages_without_an_environment()) == []


def test_the_index_leads_to_every_page() -> None:
    linked = re.findall(r"\]\(([\w-]+)\.md\)", (PAGES / "index.md").read_text())

    assert sorted(linked) == sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "index")
