"""Real processes for tests: started, watched line by line, and gone when the test is.

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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

PATIENCE = 60.0
"""Seconds until an awaited line is given up: much, as the machine may be busy."""


class Program:
    """A Python program, a script or a module, with its output by the line."""

    def __init__(
        self,
        program: str | Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = str(program)
        self._process = subprocess.Popen(
            [sys.executable, *([program] if isinstance(program, Path) else ["-m", program]), *arguments],
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

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def output(self) -> str:
        """All it has printed so far."""
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, *, timeout: float = PATIENCE) -> re.Match[str]:
        """The first line that `pattern` is found in; waits for it, and fails when it can no longer come."""
        matched: list[re.Match[str]] = []

        def found() -> bool:
            matched.extend(match for line in self.lines if (match := re.search(pattern, line)))
            return bool(matched) or self._ended

        with self._more:
            self._more.wait_for(found, timeout)
        assert matched, f"{self.name} has not printed {pattern!r}, but:\n{self.output}"
        return matched[0]

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code, when it has ended and all its output is read."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended, but printed:\n{self.output}") from None
        self._reader.join(timeout)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """As `kill` does, to this process alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
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
    """A port that nobody listens on, to be given back and taken again.

    The system gives ports from 32768 on to any connection that asks for one, so that one of those may be taken while
    nobody listens on it: while a test's store is down, for example.
    """
    while True:
        port = next(_ports)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
