"""Run the tests of the frameworks manually; see the package's docstring."""

from __future__ import annotations

import json
import platform
import sys
from typing import Any

from .agents import ENVIRONMENTS
from .environments import REPOSITORY
from .run import reports, versions

RESULTS = REPOSITORY / "benchmarks" / "results" / "frameworks.json"


def main(chosen: list[str]) -> int:
    """Run the chosen environments, or all, and save the results; return 1 if there are problems."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if chosen and RESULTS.exists() else {}
    failed = 0
    for name in chosen or ENVIRONMENTS:
        agents = list(reports(name))
        results[name] = {"python": platform.python_version(), "versions": versions(name), "agents": agents}
        for report in agents:
            failed += bool(report["problems"])
            print(f"{name:10} {report['page']:16} {report['agent']:16} {_result(report)}", flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    return 1 if failed else 0


def _result(report: dict[str, Any]) -> str:
    if not report["problems"]:
        return f"ok: {report['rollouts']} rollouts, {report['calls']} calls, {report['spans']} spans"
    return f"{len(report['problems'])} problems; first: {report['problems'][0]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
