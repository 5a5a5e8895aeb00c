"""Virtual environments of the frameworks, created from locked versions under a cache folder.

`environments/NAME.in` lists the packages, `environments/NAME.txt` the locked versions.
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

REPOSITORY = Path(__file__).parents[2]
LOCKS = Path(__file__).parent / "environments"
CACHE = Path(os.environ.get("AGL_FRAMEWORKS_CACHE", Path.home() / ".cache" / "agentlightning" / "frameworks"))


def python_of(name: str) -> Path:
    """Return the Python of the environment; create the environment first if it is missing or outdated."""
    lock = LOCKS / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    python = folder / "bin" / "python"
    with _exclusive(folder):
        if not (folder / "complete").exists():
            _uv("venv", "--clear", "--python", sys.executable, str(folder))
            _uv("pip", "install", "--python", str(python), "-r", str(lock))
            (folder / "complete").touch()
    return python


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lock(name: str) -> None:
    """Lock the newest versions that are compatible with each other and with this package."""
    requirements = [str(REPOSITORY / "pyproject.toml"), str(LOCKS / f"{name}.in")]
    options = ["--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--upgrade"]
    _uv("pip", "compile", *options, *requirements, "-o", str(LOCKS / f"{name}.txt"))


def _uv(*arguments: str) -> None:
    from uv import find_uv_bin

    subprocess.run([find_uv_bin(), *arguments, "--quiet"], check=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in LOCKS.glob("*.in")):
        lock(name)
