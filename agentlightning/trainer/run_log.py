"""RunLog: what the `agentlightning` loggers say during a run, also in the run's `log.txt`, from all its processes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..logs import FORMAT

ACCESS: Final = logging.getLogger("agentlightning.store.access")
"""A line for every request is what `agl store` is for; here it would drown the rest."""


@dataclass
class RunLog:
    """A context manager. Entering it again, in this process or a forked one, changes nothing."""

    file: Path | None

    def __enter__(self) -> RunLog:
        self._handler: logging.Handler | None = None
        logger = logging.getLogger("agentlightning")
        if self.file is None or any(_writes_to(handler, self.file) for handler in logger.handlers):
            return self
        self._handler = logging.FileHandler(self.file, encoding="utf-8", errors="backslashreplace")
        self._handler.setFormatter(logging.Formatter(FORMAT))
        self._level = logger.level
        if not logger.isEnabledFor(logging.INFO):
            logger.setLevel(logging.INFO)
        logger.addHandler(self._handler)
        if ACCESS.level == logging.NOTSET:
            ACCESS.setLevel(logging.WARNING)
        return self

    def __getstate__(self) -> dict[str, Path | None]:
        return {"file": self.file}  # a fresh process opens it itself

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            logger = logging.getLogger("agentlightning")
            logger.removeHandler(self._handler)
            logger.setLevel(self._level)
            self._handler.close()
            self._handler = None
            ACCESS.setLevel(logging.NOTSET)


def _writes_to(handler: logging.Handler, file: Path) -> bool:
    return isinstance(handler, logging.FileHandler) and Path(handler.baseFilename) == file.absolute()
