"""Whatever is done to a store, in whatever order, it agrees with the reference, whichever way it is reached."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase

from agentlightning.store import lifecycle

from ..conftest import Figure
from ..faults.machine import MACHINES, Machine, run

RUNS = 200

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # what fails is also shrunk to a few steps


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.way)
def test_a_store_agrees_with_the_reference(machine: type[Machine], figure: Figure) -> None:
    figure(run(machine, RUNS, derandomize=True))

    assert machine.runs >= RUNS


def test_the_reference_finds_a_store_without_fencing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What shows that the test above can fail."""

    def anybody_may_speak(now: Any) -> None:
        pass

    monkeypatch.setattr(lifecycle, "_may_speak", anybody_may_speak)

    with pytest.raises(AssertionError):
        run(Machine, RUNS, derandomize=True, phases=[Phase.generate])


def test_the_reference_finds_a_store_that_serves_retries_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.sql.transitions.TAIL", "0")

    with pytest.raises(AssertionError):
        run(Machine, RUNS, derandomize=True, phases=[Phase.generate])
