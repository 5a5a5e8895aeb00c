"""RunLog: what the `agentlightning` loggers say during a run, also in the run's `log.txt`, from all its processes."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from ..logs import FORMAT

LOGGER: Final = logging.getLogger("agentlightning")
ACCESS: Final = logging.getLogger("agentlightning.store.access")
"""A line for every request is what `agl store` is for; here it would drown the rest."""


class RunLog:
    """A context manager. Entering it again, in a runner's thread or forked process, changes nothing."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._entered = 0
        self._end = ExitStack()

    def __reduce__(self) -> Any:
        return RunLog, (self.file,)  # a fresh process opens it itself

    def __enter__(self) -> RunLog:
        with _entering:
            self._entered += 1
            if self._entered == 1 and self.file is not None:
                self._begin(self.file)
        return self

    def __exit__(self, *_: object) -> None:
        with _entering:
            self._entered -= 1
            if not self._entered:
                self._end.close()

    def _begin(self, file: Path) -> None:
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter(FORMAT))
        self._end.callback(handler.close)
        self._listen()
        LOGGER.addHandler(handler)
        self._end.callback(LOGGER.removeHandler, handler)
        if ACCESS.level == logging.NOTSET:
            ACCESS.setLevel(logging.WARNING)
            self._end.callback(ACCESS.setLevel, logging.NOTSET)

    def _listen(self) -> None:
        """Have everything said from INFO on, but to nobody who did not want to hear it before."""
        if LOGGER.isEnabledFor(logging.INFO):
            return
        quiet = _KeepQuiet(LOGGER.getEffectiveLevel())
        for handler in [*LOGGER.handlers, *logging.getLogger().handlers]:
            handler.addFilter(quiet)
            self._end.callback(handler.removeFilter, quiet)
        self._end.callback(LOGGER.setLevel, LOGGER.level)
        LOGGER.setLevel(logging.INFO)


class _KeepQuiet(logging.Filter):
    def __init__(self, level: int) -> None:
        super().__init__(LOGGER.name)
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self._level or not super().filter(record)


_entering = threading.Lock()
"""Protects the count from runners' threads that enter and leave at the same time."""
