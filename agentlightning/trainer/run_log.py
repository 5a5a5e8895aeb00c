"""RunLog: write the `agentlightning` log of all processes of a run to its `log.txt`."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from ..logs import FORMAT

LOGGER: Final = logging.getLogger("agentlightning")
ACCESS_LOGGER: Final = logging.getLogger("agentlightning.store.access")
"""Silenced during a run: a line for each request is useful in `agl store` only."""

_entering = threading.Lock()
"""Protects the count of entries from runners' threads that enter and leave at the same time."""


class RunLog:
    """A context manager. Entering it again, in a runner's thread or forked process, has no effect."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._entries = 0
        self._cleanup = ExitStack()

    def __reduce__(self) -> Any:
        return RunLog, (self.file,)  # a fresh process opens the file itself

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
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter(FORMAT))
        self._cleanup.callback(handler.close)
        self._enable_info()
        LOGGER.addHandler(handler)
        self._cleanup.callback(LOGGER.removeHandler, handler)
        if ACCESS_LOGGER.level == logging.NOTSET:
            ACCESS_LOGGER.setLevel(logging.WARNING)
            self._cleanup.callback(ACCESS_LOGGER.setLevel, logging.NOTSET)

    def _enable_info(self) -> None:
        """Lower the logger's level to INFO, and keep the existing handlers at the level that they have now."""
        if LOGGER.isEnabledFor(logging.INFO):
            return
        level_filter = _LevelFilter(LOGGER.getEffectiveLevel())
        for handler in [*LOGGER.handlers, *logging.getLogger().handlers]:
            handler.addFilter(level_filter)
            self._cleanup.callback(handler.removeFilter, level_filter)
        self._cleanup.callback(LOGGER.setLevel, LOGGER.level)
        LOGGER.setLevel(logging.INFO)


class _LevelFilter(logging.Filter):
    def __init__(self, level: int) -> None:
        super().__init__(LOGGER.name)
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self._level or not super().filter(record)
