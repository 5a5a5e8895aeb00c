"""Child processes that end when their parent does, however the parent ends.

The child's standard input is a pipe whose other end the parent holds. When that end closes, because the parent stops
the child or because the parent is gone (`kill -9` included), the child stops as on SIGTERM, and after a few seconds of
grace in any case. It has a session of its own, so a Ctrl-C in the terminal reaches the parent alone, which stops its
children in the order it wants.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

GRACE_SECONDS = 5.0

# In the program's own process group, and there before the program is.
_GUARD = """exec 3<&0 </dev/null
{ trap '' TERM INT HUP; read -r _ <&3; kill -s KILL 0; } &
exec "$@" 3<&-"""


def guarded(arguments: Sequence[str]) -> list[str]:
    """The command of a program that is killed, with its whole process group, when its standard input ends.

    That is to be a pipe whose other end the parent holds; the program itself has nothing to read. It is to be started
    in a session of its own, and what is left of its group killed after its end, the guard being part of it.
    """
    return ["/bin/sh", "-c", _GUARD, "sh", *arguments]


@contextmanager
def leashed(
    module: str,
    *arguments: str,
    stdout: int | IO[str] | None = None,
    stderr: int | IO[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Generator[subprocess.Popen[str]]:
    """Run `python -m module arguments…` for as long as the context lasts, with `environment` added to our own."""
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


def _run_leashed(module: str, arguments: list[str]) -> None:
    threading.Thread(target=_end_with_parent, name="leash", daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    # Not sys.stdin.read(): a buffered reader's lock, held by a daemon thread, makes the interpreter's exit fail.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    _run_leashed(sys.argv[1], sys.argv[2:])
