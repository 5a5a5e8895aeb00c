"""Configuration of log output: plain lines, lines formatted by rich, or JSON lines.

Log messages may contain text from requests, models and agents. The formatters escape control characters, so that such
text can neither add a line to the log nor send commands to a terminal. They also redact API keys.

The library itself only calls `logging.getLogger(__name__)`. Logging is not configured until a program (`agl …`, a
script, a notebook) calls `setup_logging` or `ensure_logging`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from textwrap import indent
from types import TracebackType
from typing import Any, Final, Literal

FORMAT = "%(asctime)s [%(levelname)s] (%(process)d:%(name)s) %(message)s"

REDACTED: Final = {"is_redacted": True}
"""Extra attribute for a log record whose message cannot contain an API key. `LineFormatter` then skips redaction."""

# C0 and C1 control characters, DEL, soft hyphens, invisible and bidirectional formatting characters, line separators,
# surrogates, noncharacters and tags. Terminals interpret some of them; others hide or reorder the text around them.
_CONTROLS = (
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffb"
    r"\ufffe\uffff\U000e0000-\U000e0fff"
)
_CONTROL = re.compile(f"[{_CONTROLS}]")
_HIDDEN_BUT_PRINTABLE = b"\xf3\xa0"
"""First bytes of U+E0000 to U+E0FFF in UTF-8. Python regards some of these characters as printable."""
_CONTROL_IN_LINES = re.compile(rf"(?![\n\t])[{_CONTROLS}]")


def escape_controls(text: str, *, keep_lines: bool = False) -> str:
    """Replace control, formatting and surrogate characters with escape sequences such as `\\x1b`.

    If `keep_lines` is true, line feeds and tabs are kept.
    """
    if text.isprintable() and (text.isascii() or _HIDDEN_BUT_PRINTABLE not in text.encode()):
        return text
    return (_CONTROL_IN_LINES if keep_lines else _CONTROL).sub(_escape_sequence, text)


def _escape_sequence(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def ascii_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON text in ASCII, with all control characters in strings escaped."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")  # json.dumps escapes all others, but not DEL


class LineFormatter(logging.Formatter):
    """Formats a record as one line without control characters, followed by the indented lines of its traceback."""

    _second: tuple[int, str] = 0, ""
    """Time of the last record in whole seconds, and the same time as text, which is formatted only once a second."""

    def __init__(self, format: str = FORMAT) -> None:
        super().__init__(format)

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        line = escape_controls(self.formatMessage(record))
        if record.exc_info or record.exc_text or record.stack_info:
            line += "\n" + indent(escape_controls(self._details(record), keep_lines=True), "  ", lambda _: True)
        return line if "is_redacted" in record.__dict__ else _redact(line)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        second, text = self._second
        if second != int(record.created):
            text = time.strftime(self.default_time_format, time.localtime(record.created))
            self._second = int(record.created), text
        return f"{text},{int(record.msecs):03}"

    def _details(self, record: logging.LogRecord) -> str:
        exception = self.formatException(record.exc_info) if record.exc_info else record.exc_text
        return "\n".join(part for part in (exception, record.stack_info) if part)


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
        logger.addHandler(LogFile(file))
    logger.setLevel(level.upper() if isinstance(level, str) else level)
    logger.propagate = False
    return logger


def escape_tracebacks() -> None:
    """Escape control characters and redact API keys in the tracebacks of uncaught exceptions.

    Do the same for warnings and errors that other libraries log while no log handler is configured for them.
    """

    def print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(_redact(escape_controls(text, keep_lines=True)))

    sys.excepthook = print_exception
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LineFormatter("%(message)s"))


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

        rich_handler = RichHandler(console=Console(stderr=True), show_path=False)
        rich_handler.setFormatter(LineFormatter("%(message)s"))
        return rich_handler
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if style == "json" else LineFormatter())
    return handler


class LogFile(logging.FileHandler):
    """Appends lines to a file. Drops lines while the file cannot be written, for example because the disk is full.

    When it drops the first line, it prints a message to stderr. When the file can be written again, it adds a line with
    the number of dropped lines.
    """

    def __init__(self, file: str | Path) -> None:
        super().__init__(file, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(LineFormatter())
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        before = self._dropped
        try:
            super().emit(record)
        except OSError:  # the file could not be reopened
            self.handleError(record)
        if before and before == self._dropped:
            self._dropped = 0
            message = f"{before} log lines were dropped, because the file could not be written"
            super().emit(logging.LogRecord(__name__, logging.WARNING, "", 0, message, None, None))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - overrides a method of logging
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._dropped += 1
        self._abandon_stream()
        if self._dropped == 1:
            message = f"{self.baseFilename} cannot be written: {error.strerror}. Until it can, log lines are dropped."
            with suppress(OSError):
                sys.stderr.write(f"{message}\n")

    def close(self) -> None:
        with suppress(OSError):
            super().close()

    def _abandon_stream(self) -> None:
        """Close the file and discard lines that could not be written. The next call of `emit` reopens the file."""
        if self.stream is not None:
            with suppress(OSError):
                self.stream.close()
            self.stream = None  # pyright: ignore[reportAttributeAccessIssue] - the base class reopens it


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
        return _redact(ascii_json(line))


def _redact(text: str) -> str:
    from .redaction import redact  # imports pydantic_core, which is too slow for commands such as `agl --help`

    return redact(text)
