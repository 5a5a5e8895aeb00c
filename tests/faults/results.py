"""What a long run found, on record in `benchmarks/results/`."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def record(name: str, found: Mapping[str, Any]) -> None:
    """Write `found` and where it was found to `NAME.json`."""
    machine = {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
    about = {"day": time.strftime("%Y-%m-%d"), "machine": machine, "load": round(os.getloadavg()[0], 1)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**about, **found}, indent=1) + "\n")
