"""Logging: one format with worker and rollout in it; rich on a terminal, JSON lines on request.

The library itself only ever calls `logging.getLogger(__name__)`; nothing is configured until a program
(`agl …`, a script, a notebook) calls `setup_logging`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, Literal

FORMAT = "%(asctime)s [%(levelname)s] (%(process)d:%(name)s) %(message)s"


def setup_logging(
    level: int | str = "INFO",
    *,
    style: Literal["auto", "plain", "rich", "json"] = "auto",
    file: str | None = None,
) -> logging.Logger:
    """Make the `agentlightning` loggers speak, and return the root of them.

    `style="auto"` is `AGL_LOG_STYLE` if that is set, else plain lines as the tutorial shows them. Calling it again
    replaces what an earlier call set up. With `file`, the same lines are also appended there.
    """
    logger = logging.getLogger("agentlightning")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(_handler(style))
    if file:
        to_file = logging.FileHandler(file, encoding="utf-8")
        to_file.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(to_file)
    logger.setLevel(level.upper() if isinstance(level, str) else level)
    logger.propagate = False
    return logger


def speak_if_silent() -> None:
    """`setup_logging`, where the program has set up no logging of its own: a runner's lines should be seen."""
    if not logging.getLogger("agentlightning").hasHandlers():
        setup_logging()


def _handler(style: str) -> logging.Handler:
    if style == "auto":
        style = os.environ.get("AGL_LOG_STYLE", "plain")
    if style == "rich":
        from rich.console import Console
        from rich.logging import RichHandler

        return RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if style == "json" else logging.Formatter(FORMAT))
    return handler


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
