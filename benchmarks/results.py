"""Results of benchmarks and long test runs, written to `benchmarks/results/`."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"


def write_result(name: str, result: Mapping[str, Any]) -> None:
    """Write `result`, with the day and the machine, to `NAME.json`."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**environment(), **result}, indent=1) + "\n")
    print(f"written to {RESULTS.relative_to(ROOT) / name}.json", flush=True)


def environment() -> dict[str, Any]:
    """Return the day, the machine, and its load average over the last minute."""
    machine = {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
    return {"day": time.strftime("%Y-%m-%d"), "machine": machine, "load": round(os.getloadavg()[0], 1)}


@contextmanager
def written_at_end(name: str, result: Any, **details: Any) -> Generator[None]:
    """Print and write the attributes of `result` when the block ends, also after Ctrl-C or an error."""
    broken_off = True
    try:
        yield
        broken_off = False
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        print(f"{result}{'; interrupted' * broken_off}", flush=True)
        write_result(name, {**details, "broken_off": broken_off, **vars(result)})
