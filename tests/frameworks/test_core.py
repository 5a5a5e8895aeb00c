"""The most common frameworks, each in its own environment."""

from __future__ import annotations

import re

import pytest

from .agents import CORE, ENVIRONMENTS, PAGES, pages_without_an_environment
from .run import reports


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("environment", CORE)
def test_concurrent_rollouts_record_their_own_calls_tools_and_rewards(environment: str) -> None:
    agents = list(reports(environment))

    assert [problem for report in agents for problem in report["problems"]] == []
    assert {report["page"] for report in agents} == {page.name for page in ENVIRONMENTS[environment]}


def test_every_page_has_an_environment() -> None:
    assert list(pages_without_an_environment()) == []


def test_index_links_to_every_page() -> None:
    linked = re.findall(r"\]\(([\w-]+)\.md\)", (PAGES / "index.md").read_text())

    assert sorted(linked) == sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "index")
