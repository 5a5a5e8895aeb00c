"""One environment's agents, carried out in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

from .environments import HOUSE, LOCKS, python_of


def reports(environment: str, timeout: float = 600) -> Iterator[dict[str, Any]]:
    """What `carry_out` says of each agent; of a process that broke, a report that says so."""
    ran = subprocess.run(
        [str(python_of(environment)), "-m", "tests.frameworks.carry_out", environment],
        cwd=HOUSE,
        env={**os.environ, "PYTHONPATH": str(HOUSE)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    yield from (json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"page"'))
    if ran.returncode:
        yield {"page": "", "agent": "", "rollouts": 0, "calls": 0, "spans": 0, "problems": [ran.stderr]}


def versions(environment: str) -> dict[str, str]:
    """What the environment was asked to have, in the versions it has."""
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (LOCKS / f"{environment}.txt").read_text(), re.MULTILINE))
    wanted = re.findall(r"^[\w.-]+", (LOCKS / f"{environment}.in").read_text(), re.MULTILINE)
    return {name: locked[name] for name in wanted}
