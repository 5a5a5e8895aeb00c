"""RunFolder: `runs/NAME/`, where all that belongs to a run lies."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from .result import RunResult

RUNS = "runs"
RESUME_VARIABLE = "AGL_RESUME"
"""Names the folder that the script's run is to go on in; set by `agl resume`."""


class RunFolder:
    """One run's files: `agl.db`, `log.txt`, `config.json`, `metrics.jsonl`, `result.json`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def database(self) -> Path:
        return self.path / "agl.db"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def exists(self) -> bool:
        """A run was begun in it."""
        return (self.path / "config.json").exists()

    def config(self) -> dict[str, Any]:
        """How the run was started; empty where that cannot be read."""
        try:
            return json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def result(self) -> RunResult | None:
        """What came of it; None while it runs, or when it was killed."""
        try:
            return RunResult.model_validate_json((self.path / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def begin(self, about: dict[str, Any]) -> None:
        """Make the folder, and keep how the run was started."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "result.json").unlink(missing_ok=True)
        started = {
            "command": sys.orig_argv,
            "working_directory": str(Path.cwd()),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "process": os.getpid(),
            **about,
        }
        self._write("config.json", json.dumps(started, indent=2, default=str) + "\n")

    def end(self, result: RunResult) -> None:
        """Keep what came of it."""
        text = orjson.dumps(result.model_dump(mode="json"), option=orjson.OPT_INDENT_2, default=str).decode()
        self._write("result.json", text + "\n")

    def forget(self, *, unless: bool) -> None:
        """The run that was begun in it never came to anything, `unless` it went on with an earlier one."""
        if not unless:
            (self.path / "config.json").unlink(missing_ok=True)

    def _write(self, name: str, text: str) -> None:
        # By renaming: whoever reads it, or is killed meanwhile, has the old one or the new one.
        beside = self.path / f".{name}.new"
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.path / name)


def new_folder(what: str, root: str | Path = RUNS) -> RunFolder:
    """A folder that is not there yet, named after the moment and `what` runs. It is made at once, as its own."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^A-Za-z0-9_]+', '-', what).strip('-').lower() or 'run'}"
    for number in itertools.count(1):
        path = Path(root) / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return RunFolder(path)
    raise AssertionError("counting never ends")


def folders(root: str | Path = RUNS) -> Iterator[RunFolder]:
    """All runs under `root`, the latest first."""
    found = [RunFolder(path) for path in Path(root).glob("*/")] if Path(root).is_dir() else []
    yield from sorted((folder for folder in found if folder.exists), key=_started, reverse=True)


def unfinished(about: dict[str, Any], root: str | Path = RUNS) -> RunFolder | None:
    """The latest run that was started like this, and has not come to its end."""
    for folder in folders(root):
        config, result = folder.config(), folder.result()
        if config.items() >= about.items() and (result is None or result.status != "finished"):
            return folder
    return None


def _started(folder: RunFolder) -> tuple[str, str]:
    return str(folder.config().get("started", "")), folder.name
