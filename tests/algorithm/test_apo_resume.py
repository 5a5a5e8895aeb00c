"""APO with processes killed at random moments: the resumed run has the result of an uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_apo import kill_apo_repeatedly

KILLS = 3
"""One of each target: a runner, the algorithm, and all processes."""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_apo_killed_at_random_moments_has_the_result_of_an_uninterrupted_run(tmp_path: Path):
    result = kill_apo_repeatedly(tmp_path, kills=KILLS, seed=4)

    assert result.problems == []
