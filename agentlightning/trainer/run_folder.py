"""RunFolder, which manages the files of a run in `runs/NAME/`, and RunLog, which writes the run's `log.txt`."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import orjson

from ..logs import LogFile
from ..private_files import FOLDER_MODE, create_private_file, warn_if_readable_by_others
from .result import RunResult

RUNS = "runs"
RESUME_VARIABLE = "AGL_RESUME"
"""Environment variable set by `agl resume`. Its value is the folder of the run to continue."""
LOGGER: Final = logging.getLogger("agentlightning")
ACCESS_LOGGER: Final = logging.getLogger("agentlightning.store.access")
"""Logger for requests to the store's server.

It logs one INFO line per request. This is useful only in `agl store`, so these lines are suppressed during a run.
"""

_entering = threading.Lock()
"""Protects `RunLog._entries` when several runner threads enter or exit the same `RunLog` concurrently."""


class RunFolder:
    """The files of one run: `agl.db`, `log.txt`, `config.json`, `metrics.jsonl`, `result.json`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.name = self.path.name
        self.database = self.path / "agl.db"
        self.log = self.path / "log.txt"
        self.metrics = self.path / "metrics.jsonl"
        self._config = self.path / "config.json"
        self._result = self.path / "result.json"

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def exists(self) -> bool:
        """True if a run was started in the folder."""
        return self._config.exists()

    def config(self) -> dict[str, Any]:
        """Return the command and settings of the run, or an empty dict if they cannot be read."""
        try:
            return json.loads(self._config.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def result(self) -> RunResult | None:
        """Return the result of the run, or None if the run is still active or was killed."""
        try:
            return RunResult.model_validate_json(self._result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def start(self, settings: dict[str, Any]) -> None:
        """Create the folder and save the command and settings. If the run is being resumed, delete its old result."""
        self.path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        warn_if_readable_by_others([self.log, self.metrics, self._config, self._result])
        self._result.unlink(missing_ok=True)
        config = {
            "command": sys.orig_argv,
            "working_directory": str(Path.cwd()),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "process": os.getpid(),
            **settings,
        }
        _write(self._config, json.dumps(config, indent=2, default=str))

    def end(self, result: RunResult) -> None:
        """Save the result of the run. If it cannot be saved, for example because the disk is full, log an error."""
        data = result.model_dump(mode="json")
        try:
            _write(self._result, orjson.dumps(data, option=orjson.OPT_INDENT_2, default=str).decode())
        except OSError as error:
            LOGGER.error("The result of the run could not be saved to %s: %s", self._result, error.strerror)

    def discard(self) -> None:
        """Mark the folder as unused, so that it is never listed or resumed as a run."""
        self._config.unlink(missing_ok=True)


class RunLog:
    """Context manager that writes the messages of the `agentlightning` logger to `file`, a run's `log.txt`.

    Entering a `RunLog` that is already active, for example in a runner's thread or in a forked process, does not open
    the file again. If `file` is None, nothing is written.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._entries = 0
        self._cleanup = ExitStack()

    def __reduce__(self) -> Any:
        return RunLog, (self.file,)  # a process that unpickles the `RunLog` opens the file itself

    def __enter__(self) -> RunLog:
        with _entering:
            self._entries += 1
            if self._entries == 1 and self.file is not None:
                self._open(self.file)
        return self

    def __exit__(self, *_: object) -> None:
        with _entering:
            self._entries -= 1
            if not self._entries:
                self._cleanup.close()

    def _open(self, file: Path) -> None:
        with suppress(OSError):  # `LogFile` reports the error
            create_private_file(file)
        handler = LogFile(file)
        self._cleanup.callback(handler.close)
        _enable_info(self._cleanup)
        LOGGER.addHandler(handler)
        self._cleanup.callback(LOGGER.removeHandler, handler)
        if ACCESS_LOGGER.level == logging.NOTSET:
            ACCESS_LOGGER.setLevel(logging.WARNING)
            self._cleanup.callback(ACCESS_LOGGER.setLevel, logging.NOTSET)


def new_folder(title: str, root: str | Path = RUNS) -> RunFolder:
    """Create a new folder in `root`, named after the current time and `title`."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^A-Za-z0-9_]+', '-', title).strip('-').lower() or 'run'}"
    for number in itertools.count(1):
        path = Path(root) / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(FOLDER_MODE, parents=True)
        except FileExistsError:
            continue
        return RunFolder(path)
    raise AssertionError("unreachable: counting never ends")


def folders(root: str | Path = RUNS) -> Iterator[RunFolder]:
    """Yield the folders of all runs in `root`, newest first."""
    found = [RunFolder(path) for path in Path(root).glob("*/")] if Path(root).is_dir() else []
    yield from sorted((folder for folder in found if folder.exists), key=_start_order, reverse=True)


def unfinished(settings: dict[str, Any], root: str | Path = RUNS) -> RunFolder | None:
    """Return the folder of the latest unfinished run with these settings, or None if there is none."""
    for folder in folders(root):
        config, result = folder.config(), folder.result()
        if config.items() >= settings.items() and (result is None or result.status != "finished"):
            return folder
    return None


def _start_order(folder: RunFolder) -> tuple[str, str]:
    return str(folder.config().get("started", "")), folder.name


def _write(file: Path, text: str) -> None:
    # Replace the file atomically: even if the process is killed, the file has either the old or the new content.
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    create_private_file(temporary)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(file)


def _enable_info(cleanup: ExitStack) -> None:
    """Lower the logger's level to INFO without changing what the existing handlers log."""
    if LOGGER.isEnabledFor(logging.INFO):
        return
    level = LOGGER.getEffectiveLevel()

    def keep_level(record: logging.LogRecord) -> bool:
        return record.levelno >= level or not f"{record.name}.".startswith(f"{LOGGER.name}.")

    for handler in [*LOGGER.handlers, *logging.getLogger().handlers]:
        handler.addFilter(keep_level)
        cleanup.callback(handler.removeFilter, keep_level)
    cleanup.callback(LOGGER.setLevel, LOGGER.level)
    LOGGER.setLevel(logging.INFO)
