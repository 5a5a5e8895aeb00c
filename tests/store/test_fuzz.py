"""Requests generated from the store's OpenAPI document: the store responds to each of them and continues."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..conftest import Figure
from ..faults.fuzz import fuzz

REQUESTS = 2_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_generated_requests_do_not_break_the_server(tmp_path: Path, figure: Figure) -> None:
    result = fuzz(tmp_path, REQUESTS)

    figure(result)
    assert (result.tried, result.broken) == (REQUESTS, [])
    assert set(result.statuses) > {200, 404, 409, 422}
