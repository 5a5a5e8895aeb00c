"""Fencing: a runner that was suspended past its lease cannot change anything."""

from __future__ import annotations

from typing import Any

import pytest

from agentlightning.store import lifecycle

from ..conftest import Figure
from ..faults.stale_runner import stop_runners_repeatedly

SCHEDULES = 20


async def test_reports_of_a_stale_runner_change_nothing(figure: Figure) -> None:
    result = await stop_runners_repeatedly(SCHEDULES)

    figure(result)
    assert (result.schedules, result.refused, result.effective) == (SCHEDULES, SCHEDULES, [])


async def test_stale_runners_detect_missing_fencing(monkeypatch: pytest.MonkeyPatch, figure: Figure) -> None:
    """Shows that the test above detects this fault."""

    def accept_report(now: Any) -> None:
        pass

    monkeypatch.setattr(lifecycle, "_check_reportable", accept_report)

    result = await stop_runners_repeatedly(SCHEDULES)

    figure(f"seeded bug, no fencing: {result}")
    assert result.effective
