"""Runs the matrix by hand: see the package's first lines."""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

from .agents import ENVIRONMENTS
from .environments import HOUSE
from .run import reports, versions

RESULTS = HOUSE / "benchmarks" / "results" / "frameworks.json"


def main(chosen: list[str]) -> int:
    """Run what was chosen, or everything, and keep the results; 1 where something is not as it should be."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if chosen and RESULTS.exists() else {}
    failed = 0
    for name in chosen or ENVIRONMENTS:
        ran = list(reports(name))
        results[name] = {"python": platform.python_version(), "versions": versions(name), "agents": ran}
        for report in ran:
            failed += bool(report["problems"])
            print(f"{name:10} {report['page']:16} {report['agent']:16} {_verdict(report)}", flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    return 1 if failed else 0


def _verdict(report: dict[str, Any]) -> str:
    if not report["problems"]:
        return f"well: {report['rollouts']} rollouts, {report['calls']} calls, {report['spans']} spans"
    return f"{len(report['problems'])} problems; the first: {report['problems'][0]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
