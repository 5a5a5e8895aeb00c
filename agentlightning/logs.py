"""Configuration of log output as plain lines, rich, or JSON lines.

The library only calls `logging.getLogger(__name__)`. Nothing is configured until a program (`agl …`, a script, a
notebook) calls `setup_logging`.
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

    `style="auto"` means the style in `AGL_LOG_STYLE`, or plain lines if the variable is not set. With `file`, plain
    lines are also appended to that file. Each call replaces the configuration of the previous call.
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
