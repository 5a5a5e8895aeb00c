"""Run of one environment's agents in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

from .environments import LOCKS, REPOSITORY, python_of


def reports(environment: str, timeout: float = 600) -> Iterator[dict[str, Any]]:
    """Yield the reports of `run_agents`, and one more with stderr if the process fails."""
    process = subprocess.run(
        [str(python_of(environment)), "-m", "tests.frameworks.run_agents", environment],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    yield from (json.loads(line) for line in process.stdout.splitlines() if line.startswith('{"page"'))
    if process.returncode:
        yield {"page": "", "agent": "", "rollouts": 0, "calls": 0, "spans": 0, "problems": [process.stderr]}


def versions(environment: str) -> dict[str, str]:
    """Return the locked versions of the packages that an environment lists."""
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (LOCKS / f"{environment}.txt").read_text(), re.MULTILINE))
    packages = re.findall(r"^[\w.-]+", (LOCKS / f"{environment}.in").read_text(), re.MULTILINE)
    return {name: locked[name] for name in packages}
