"""What a runner tells of the machine and the process that it runs in."""

from __future__ import annotations

import os
import platform
import socket
import sys
from typing import Any


def facts() -> dict[str, Any]:
    """Where it runs, and how busy that is now. What a system does not tell is left out."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        **_burden(),
    }


def _burden() -> dict[str, Any]:
    if sys.platform == "win32":
        return {}
    import resource

    # The most memory it ever had: bytes on macOS, kilobytes elsewhere.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "load": round(os.getloadavg()[0], 2),
        "memory_mb": round(peak / (1e6 if sys.platform == "darwin" else 1e3)),
    }
