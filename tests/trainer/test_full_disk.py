"""A disk that is full under a run's folder: the run logs this once, waits, and continues when space returns."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.failing_disk import CannotMount, ProgramOnSmallDisk

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("strategy", ["cs", "shm"])]

SCRIPT = Path(__file__).with_name("full_disk_script.py")
FULL = "log.txt cannot be written"

Start = Callable[[str], ProgramOnSmallDisk]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the script, and fill its disk during the first rollout."""
    environment = {"AGL_SPOOL_DIR": str(tmp_path / "spool"), "PYTHONPATH": str(Path.cwd())}
    with ExitStack() as stack:

        def start(strategy: str) -> ProgramOnSmallDisk:
            try:
                run = ProgramOnSmallDisk(tmp_path, "4m", SCRIPT, strategy, str(tmp_path), environment=environment)
                stack.enter_context(run)
                run.wait_for_start(r"^\[Rollout\] 0")
            except CannotMount as error:
                pytest.skip(f"a tmpfs cannot be mounted here: {error}")
            run.fill()
            (run.disk / "filled").touch()
            run.wait_for_line(FULL)
            return run

        yield start


def test_run_on_full_disk_continues_when_space_returns(start: Start, strategy: str) -> None:
    run = start(strategy)

    run.empty()

    assert run.wait() == 0, run.output
    run.wait_for_line(r"^\[Result\] finished \[\('succeeded', 10\)\]")
    assert "Logging error" not in run.output
    assert "Traceback" not in run.output
    assert run.output.count(FULL) <= 2  # one line from each process
    assert len([line for line in run.lines if not line.startswith("[Rollout]")]) < 20


def test_ctrl_c_ends_a_run_on_full_disk(start: Start, strategy: str) -> None:
    run = start(strategy)

    run.send_signal(signal.SIGINT)

    assert run.wait() == -signal.SIGINT, run.output
    run.wait_for_line("^KeyboardInterrupt: to continue: agl resume")
    assert "Logging error" not in run.output
