"""What a long run found, on record in `benchmarks/results/`, however far it came."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@contextmanager
def on_record(name: str, found: Any, **about: Any) -> Generator[None]:
    """Print and write what `found` holds when the run is over, or broken off by Ctrl-C or an error."""
    broken_off = True
    try:
        yield
        broken_off = False
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        print(f"{found}{'; broken off' * broken_off}", flush=True)
        record(name, {**about, "broken_off": broken_off, **vars(found)})


def record(name: str, found: Mapping[str, Any]) -> None:
    """Write `found` and where it was found to `NAME.json`."""
    machine = {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
    about = {"day": time.strftime("%Y-%m-%d"), "machine": machine, "load": round(os.getloadavg()[0], 1)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**about, **found}, indent=1) + "\n")
