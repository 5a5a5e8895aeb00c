"""The command line of a fault test that runs for longer than in the test suite."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from benchmarks.results import written_at_end


class LongRunResult(Protocol):
    """The result of a run; its attributes are written to `benchmarks/results/`."""

    @property
    def problems(self) -> list[str]: ...


def run_from_command_line(
    name: str,
    description: str | None,
    result: LongRunResult,
    run: Callable[[argparse.Namespace, Path], Any],
    **options: int,
) -> None:
    """Parse the options, run in a temporary folder, print and write the result, and exit with 1 if it has problems."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, default in options.items():
        parser.add_argument(f"--{option}", type=int, default=default, help="default: %(default)s")
    arguments = parser.parse_args()
    seed = {"seed": arguments.seed} if "seed" in options else {}
    with written_at_end(name, result, **seed), TemporaryDirectory() as folder:
        run(arguments, Path(folder))
    print(*result.problems, sep="\n")
    raise SystemExit(bool(result.problems))
