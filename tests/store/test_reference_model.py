"""Random sequences of calls: a store of every kind agrees with a reference model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import Phase, seed

from agentlightning.store import lifecycle

from ..conftest import Figure
from ..faults.machine import MACHINES, StoreMachine, run

RUNS, RUNS_OVER_A_WAY = 200, 10
"""Random sequences on the store in memory, and on each other kind of store."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a failing sequence is also shrunk


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.way)
def test_store_agrees_with_the_reference_model(machine: type[StoreMachine], figure: Figure) -> None:
    runs = RUNS if machine.way == "memory" else RUNS_OVER_A_WAY

    figure(run(machine, runs, derandomize=True))

    assert machine.runs >= runs


def test_reference_model_detects_missing_fencing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows that the test above detects this fault."""

    def accept_report(now: Any) -> None:
        pass

    monkeypatch.setattr(lifecycle, "_check_reportable", accept_report)

    run_until_detected()


def test_reference_model_detects_a_wrong_queue_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.sql.transitions.TAIL", "0")

    run_until_detected()


def run_until_detected() -> None:
    """Expect a difference within a few short runs: a single seed may miss a fault."""
    with pytest.raises(AssertionError):
        _run_with_seeds(range(RUNS // 40))


def _run_with_seeds(seeds: Iterable[int]) -> None:
    for number in seeds:
        machine = seed(number)(type("SeededMachine", (StoreMachine,), {}))
        run(machine, 40, phases=[Phase.generate])
