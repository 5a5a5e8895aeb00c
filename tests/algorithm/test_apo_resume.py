"""APO under fire: whatever is killed, whenever, the resumed run ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_apo import kill_an_apo_run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path: Path):
    result = kill_an_apo_run(tmp_path, kills=10, seed=4)

    assert result.wrong == []
