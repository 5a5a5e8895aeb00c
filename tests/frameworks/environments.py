"""Environments in which frameworks live together: made once, from locked versions, under a cache folder.

`environments/NAME.in` says what is wanted, `environments/NAME.txt` which versions that means.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOUSE = Path(__file__).parents[2]
LOCKS = Path(__file__).parent / "environments"
CACHE = Path(os.environ.get("AGL_FRAMEWORKS_CACHE", Path.home() / ".cache" / "agentlightning" / "frameworks"))


def python_of(name: str) -> Path:
    """The Python of the environment, which is made first where it is not there or not as its lock says."""
    lock = LOCKS / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    python = folder / "bin" / "python"
    with _alone_with(folder):
        if not (folder / "complete").exists():
            _uv("venv", "--clear", "--python", sys.executable, str(folder))
            _uv("pip", "install", "--python", str(python), "-r", str(lock))
            (folder / "complete").touch()
    return python


@contextmanager
def _alone_with(folder: Path) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def lock(name: str) -> None:
    """Write down the newest versions that fit together and with the package's own dependencies."""
    wanted = [str(HOUSE / "pyproject.toml"), str(LOCKS / f"{name}.in")]
    shape = ["--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--upgrade"]
    _uv("pip", "compile", *shape, *wanted, "-o", str(LOCKS / f"{name}.txt"))


def _uv(*arguments: str) -> None:
    from uv import find_uv_bin

    subprocess.run([find_uv_bin(), *arguments, "--quiet"], check=True)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or sorted(path.stem for path in LOCKS.glob("*.in")):
        lock(wanted)
