"""Configuration of log output: plain lines, lines formatted by rich, or JSON lines.

The library itself only calls `logging.getLogger(__name__)`. Logging is not configured until a program (`agl …`, a
script, a notebook) calls `setup_logging` or `ensure_logging`.
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
    """Configure the `agentlightning` logger and return it.

    `style="auto"` selects the style that the environment variable `AGL_LOG_STYLE` names, or plain lines if it is not
    set. Logs are written to stderr. If `file` is given, plain lines are also appended to that file. Each call replaces
    the configuration of the previous call.
    """
    logger = logging.getLogger("agentlightning")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(_handler(style))
    if file:
        file_handler = logging.FileHandler(file, encoding="utf-8")
        file_handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(file_handler)
    logger.setLevel(level.upper() if isinstance(level, str) else level)
    logger.propagate = False
    return logger


def ensure_logging() -> None:
    """Call `setup_logging` unless the program has already configured logging."""
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
