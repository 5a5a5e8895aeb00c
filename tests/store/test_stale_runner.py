"""A runner that was stopped past its lease, and comes back when others have done its work."""

from __future__ import annotations

from typing import Any

import pytest

from agentlightning.store import lifecycle

from ..conftest import Figure
from ..faults.stale_runner import stop_again_and_again

SCHEDULES = 20


async def test_what_a_stale_runner_reports_changes_nothing(figure: Figure) -> None:
    result = await stop_again_and_again(SCHEDULES)

    figure(result)
    assert (result.schedules, result.refused, result.effective) == (SCHEDULES, SCHEDULES, [])


async def test_the_stale_runners_find_a_store_without_fencing(monkeypatch: pytest.MonkeyPatch, figure: Figure) -> None:
    """What shows that the test above can fail."""

    def anybody_may_speak(now: Any) -> None:
        pass

    monkeypatch.setattr(lifecycle, "_may_speak", anybody_may_speak)

    result = await stop_again_and_again(SCHEDULES)

    figure(f"seeded bug, no fencing: {result}")
    assert result.effective
