"""Server processes for benchmarks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.processes import free_port


@contextmanager
def start_server(module: str, *arguments: str, core: int | None = None) -> Iterator[tuple[psutil.Process, str]]:
    """Run a module as a server process; yield the process and the URL that it prints first.

    With `core`, the process runs on that CPU core only.
    """

    def pin() -> None:
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})

    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pin)
    try:
        assert process.stdout is not None
        match = re.search(r"http://[^\s,;]+", process.stdout.readline())
        assert match, f"{command} printed no URL"
        yield psutil.Process(process.pid), match[0]
    finally:
        process.terminate()
        process.communicate()


def server_options() -> tuple[str, ...]:
    """Return options of an `agl` server for a free port and little output."""
    return "--port", str(free_port()), "--log-level", "warning"
