"""A runner that was stopped past its lease, and comes back when others have done its work."""

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
    """What shows that the test above can fail."""

    def anybody_may_speak(now: Any) -> None:
        pass

    monkeypatch.setattr(lifecycle, "_check_reportable", anybody_may_speak)

    result = await stop_runners_repeatedly(SCHEDULES)

    figure(f"seeded bug, no fencing: {result}")
    assert result.effective
