"""Log output: text from outside the program can neither add a line nor control the terminal."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.logging import RichHandler

from agentlightning.logs import escape_controls, setup_logging

UNSAFE = [
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))),  # C0, DEL, C1
    *"\u061c\u200e\u200f\u202a\u202e\u2066\u2069\u2028\u2029\u200b\ufeff\ud800\udfff\U000e0041",
]
FORGED = "2026-01-01 00:00:00,000 [ERROR] (1:agentlightning) forged"

Log = Callable[[], str]


@pytest.fixture(params=["plain", "rich", "json"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """Configure logging in one style; return a function that returns what was logged."""
    written = io.StringIO()
    logger = setup_logging(style=request.param)
    for handler in logger.handlers:
        if isinstance(handler, RichHandler):
            handler.console.file = written
        elif isinstance(handler, logging.StreamHandler):
            handler.setStream(written)
    yield written.getvalue
    remove_handlers(logger)


def write_record(name: str, message: str, *args: object, exc_info: Any = None) -> None:
    """Pass a record to the configured handlers, but not to pytest's: it cannot report surrogates of parallel tests."""
    record = logging.LogRecord(name, logging.WARNING, __file__, 1, message, args, exc_info)
    for handler in logging.getLogger("agentlightning").handlers:
        if not type(handler).__module__.startswith("_pytest"):
            handler.handle(record)


def remove_handlers(logger: logging.Logger) -> None:
    """Undo `setup_logging`."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


@pytest.mark.parametrize("unsafe", UNSAFE, ids=ascii)
def test_control_characters_are_escaped(unsafe: str) -> None:
    assert escape_controls(f"a{unsafe}b").encode("ascii").startswith(b"a\\")


@pytest.mark.parametrize("keep_lines", [False, True])
@pytest.mark.parametrize("hidden", ["\U000e0100", "\U000e01ef", "\U000e0041"], ids=ascii)
def test_hidden_characters_are_escaped_in_text_that_is_otherwise_printable(hidden: str, keep_lines: bool) -> None:
    assert escape_controls(f"é a{hidden}b", keep_lines=keep_lines) == f"é a\\U{ord(hidden):08x}b"


@pytest.mark.parametrize(
    "text", ["plain text", "❤\N{VARIATION SELECTOR-16}", "Größe: 3 µm, 漢字 🚀", "C:\\new [red] {x} %s"]
)
def test_readable_text_is_unchanged(text: str) -> None:
    assert escape_controls(text) == text


def test_message_stays_one_line_without_control_characters(log: Log) -> None:
    write_record("agentlightning.x\n", "worker %s", "".join(UNSAFE) + "\n" + FORGED)

    logged = log()
    assert unsafe_characters(logged) == set()
    assert not any(line.startswith("2026-01-01") for line in logged.splitlines())


def test_traceback_keeps_its_lines_but_none_looks_like_a_record(log: Log, request: pytest.FixtureRequest) -> None:
    try:
        raise ValueError(f"model said\n{FORGED}\x1b]0;owned\x07" + "".join(UNSAFE))
    except ValueError:
        write_record("agentlightning", "failed", exc_info=sys.exc_info())

    logged = log()
    assert unsafe_characters(logged) == set()
    assert not any(line.startswith("2026-01-01") for line in logged.splitlines())
    if request.node.callspec.params["log"] == "json":
        logged = json.loads(logged)["exception"]
    assert "Traceback (most recent call last):" in [line.strip() for line in logged.splitlines()]


def test_log_file_is_escaped_too(tmp_path: Path) -> None:
    logger = setup_logging(file=str(tmp_path / "log.txt"))
    write_record("agentlightning", "path %s", "/x\r\n" + FORGED + "\x1b[2J\ud800")
    remove_handlers(logger)

    [line] = (tmp_path / "log.txt").read_text().splitlines()
    assert unsafe_characters(line) == set()


def unsafe_characters(text: str) -> set[str]:
    """The characters in `text` that are no white space and that a terminal does not print."""
    return {c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - {"\n", "\t"}


def test_api_keys_in_messages_and_tracebacks_are_redacted(log: Log) -> None:
    key = "sk-proj-" + "a1B2" * 8
    try:
        raise ValueError(f"bad key\n{key}")
    except ValueError:
        logging.getLogger("agentlightning.x").exception("Refused {%s}", key)

    assert log().count("[redacted]") >= 2
    assert "a1B2" not in log()
