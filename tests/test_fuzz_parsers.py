"""Generated texts: every parser of untrusted input handles them correctly, in time linear in their size."""

from __future__ import annotations

import pytest

from .conftest import Figure
from .faults.fuzz_parsers import fuzz_parsers

CASES = 300


@pytest.mark.slow
async def test_generated_texts_are_parsed_correctly_in_linear_time(figure: Figure) -> None:
    result = await fuzz_parsers(CASES, max_size=8 * 1024)

    figure(result)
    assert (result.tried, result.broken) == (CASES, [])
