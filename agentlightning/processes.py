"""Child processes that end when their parent ends, even if the parent is killed.

A child process detects the end of its parent through a pipe on its standard input: the parent holds the other end, so
the pipe closes when the parent ends. A `multiprocessing` process waits for its parent's `sentinel` instead. When the
parent ends, a Python child gets SIGTERM, and a few seconds later its process group is killed. The process group of a
program started with `watchdog_command` is killed immediately.

Each child runs in a new session, so a Ctrl-C in the terminal reaches only the parent, which then stops its children in
the right order.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

GRACE_SECONDS = 5.0
"""Time in seconds between the SIGTERM to a child process and the SIGKILL to its process group."""

# The part in braces is the watchdog, which starts before the program. It waits until the pipe on standard input closes
# and then kills its own process group, to which the program also belongs.
_WATCHDOG = """exec 3<&0 </dev/null
{ trap '' TERM INT HUP; read -r _ <&3; kill -s KILL 0; } &
exec "$@" 3<&-"""


@contextmanager
def child_process(
    module: str,
    *arguments: str,
    stdout: int | IO[str] | None = None,
    stderr: int | IO[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Generator[subprocess.Popen[str]]:
    """Run `python -m module arguments…` as a child process until the block ends.

    The variables in `environment` are added to the inherited environment.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, module, *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _stop(process)


def watchdog_command(arguments: Sequence[str]) -> list[str]:
    """Return a command that runs a program and kills its process group when the command's standard input closes.

    The standard input must be a pipe whose other end the parent holds. The program itself gets no input. Start the
    command in a new session. When the program has exited, kill its process group, because the watchdog still runs.
    """
    return ["/bin/sh", "-c", _WATCHDOG, "sh", *arguments]


def end_with_parent(wait_for_parent: Callable[[], object], grace: float) -> None:
    """Wait in a thread until `wait_for_parent` returns, then end this process.

    The process gets SIGTERM, and its process group is killed `grace` seconds later.
    """

    def watch() -> None:
        wait_for_parent()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        kill_group(os.getpid())

    threading.Thread(target=watch, name="agl-parent-watch", daemon=True).start()


def kill_group(pid: int) -> None:
    """Kill the process group of the process `pid`. On Windows, kill only the process itself."""
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            os.kill(pid, signal.SIGTERM)
            return
        try:
            os.killpg(pid, signal.SIGKILL)
        except PermissionError:  # the process has not created its own group yet
            os.kill(pid, signal.SIGTERM)


def is_process_alive(pid: int) -> bool:
    """Return True if a process other than the current one has this id on this machine.

    For the current process's own id, return False: a recorded id equal to it belonged to an earlier process.
    """
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(GRACE_SECONDS + 1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


if __name__ == "__main__":
    # Do not use sys.stdin.read: the interpreter crashes on exit if a daemon thread holds a buffered reader's lock.
    end_with_parent(lambda: os.read(0, 1), GRACE_SECONDS)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
