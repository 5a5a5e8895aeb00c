"""Whatever is done to a store, in whatever order, it agrees with the reference, whichever way it is reached."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase

from agentlightning.store import lifecycle

from ..conftest import Figure
from ..faults.machine import MACHINES, StoreMachine, run

RUNS = 200

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # what fails is also shrunk to a few steps


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.way)
def test_store_agrees_with_the_reference_model(machine: type[StoreMachine], figure: Figure) -> None:
    figure(run(machine, RUNS, derandomize=True))

    assert machine.runs >= RUNS


def test_reference_model_detects_missing_fencing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What shows that the test above can fail."""

    def anybody_may_speak(now: Any) -> None:
        pass

    monkeypatch.setattr(lifecycle, "_check_reportable", anybody_may_speak)

    with pytest.raises(AssertionError):
        run(StoreMachine, RUNS, derandomize=True, phases=[Phase.generate])


def test_reference_model_detects_a_wrong_queue_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.sql.transitions.TAIL", "0")

    with pytest.raises(AssertionError):
        run(StoreMachine, RUNS, derandomize=True, phases=[Phase.generate])
