"""Child processes for tests, whose output is read line by line.

with Program("agentlightning.cli", "store", "--port", "0") as store:
    store.wait_for_line("Store at (.*),")
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

TIMEOUT = float(os.environ.get("AGL_TEST_TIMEOUT", "15"))
"""Seconds to wait for a line, an exit or another event before the test fails. Increase it on a slow machine."""


class Program:
    """A Python program, a script or a module, in a child process."""

    def __init__(
        self,
        program: str | Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        """Start the program. `wrapper` is a command that executes it, such as `unshare --mount`."""
        self.name = str(program)
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, *([program] if isinstance(program, Path) else ["-m", program]), *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._ended = False
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def output(self) -> str:
        """The output so far."""
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, *, timeout: float = TIMEOUT) -> re.Match[str]:
        """Wait for the first line that matches `pattern`; fail when the program ends without it."""
        matched: list[re.Match[str]] = []

        def found() -> bool:
            matched.extend(match for line in self.lines if (match := re.search(pattern, line)))
            return bool(matched) or self._ended

        with self._more:
            self._more.wait_for(found, timeout)
        assert matched, f"{self.name} did not print {pattern!r}, but:\n{self.output}"
        return matched[0]

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Wait for the exit, read the remaining output, and return the exit code."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} is still running, and printed:\n{self.output}") from None
        self._reader.join(timeout)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to this process only."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process and wait for its exit."""
        self._process.kill()
        self.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._add(line.rstrip("\n"))
        with self._more:
            self._ended = True
            self._more.notify_all()

    def _add(self, line: str) -> None:
        with self._more:
            self.lines.append(line)
            self._more.notify_all()


_ports = itertools.cycle(range(10_000, 30_000))
for _ in range(os.getpid() * 97 % 20_000):
    next(_ports)


def free_port() -> int:
    """Return a port without a listener, below the range from which the system assigns ports.

    Outgoing connections get ports from 32768 on, so such a port could be taken while a test's store is down.
    """
    while True:
        port = next(_ports)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
