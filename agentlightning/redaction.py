r"""Redaction of API keys in the text of spans, errors and log lines.

A key is recognized after any character except an ASCII letter or digit, and after an escape sequence (`\n`, `\u00e9`,
`%20`). The key's own characters may also be escaped (`\u0073k-…`). Formats that ordinary text does not contain are
recognized even after letters and digits.

The running time is linear in the size of the text. A long text is searched in slices, so that other threads can run in
between.

Set AGL_KEEP_KEYS=1 in a process's environment to disable redaction in that process.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

from pydantic_core import SchemaValidator, core_schema

KEEP_KEYS_VARIABLE = "AGL_KEEP_KEYS"
MAX_KEY = 8 * 1024
"""Maximum size of a key in bytes. If a key is larger, only its beginning is redacted."""
_BLOCK = 512 * 1024
"""Number of bytes that are tested at a time. The tests take about a millisecond. Only blocks that may contain keys are
searched."""
_SLICE = 32 * 1024
"""Number of bytes that are searched at a time. This takes at most a few milliseconds, during which the interpreter
cannot switch to another thread."""
_CONTEXT = 16
"""Maximum number of bytes before a position that determine if a key may begin there."""
_REDACTED = b"[redacted]"

_HEX = "[0-9A-Fa-f]"
_ESCAPES = (
    r"\\[abefnrtv0]",
    r"\[[mKJ]|[0-9;][A-HJKSTm]",  # the ends of "\x1b[m" and "\x1b[31m", which set the color in a terminal
)
_NUMERIC_ESCAPES = (
    r"\\[0-7]{3}",
    rf"\\x{_HEX}{{2}}",
    rf"[\\%]u{_HEX}{{4}}",
    rf"\\U{_HEX}{{8}}",
    rf"%{_HEX}{{2}}",
    rf"%25{_HEX}{{2}}",
    "=[0-9A-F]{2}",  # quoted-printable
)
"""Escape sequences (here and in `_ESCAPES`) that end in a letter or digit, but after which a key may begin.

Each alternative has a fixed length, because Python requires it in a lookbehind assertion.
"""
_RUN = "[A-Za-z0-9_-]"
_BOUNDED = (
    ("sk-", rf"(?P<run>{_RUN}{{8,}})"),  # OpenAI, Anthropic, OpenRouter, …
    (
        "[bB](?:earer|EARER)",
        r"(?: {1,9}+|(?P<gap>[+\t]|%(?:25){0,3}(?:20|09)|\\+(?:t|u0020|u0009)))[A-Za-z0-9._~+/=-]{8,}",
    ),
    ("AKIA[A-Z0-9]{16}(?![A-Za-z0-9])", ""),  # AWS
    ("AIza", rf"{_RUN}{{20,}}"),  # Google
    ("hf_", "[A-Za-z0-9]{20,}"),  # Hugging Face
)
"""Formats of keys that are not recognized after a letter or digit, except at the end of an escape sequence.

Each format consists of a beginning, which has a fixed length, and the rest.
"""
_UNBOUNDED = (
    rf"sk-(?:(?:proj|svcacct|admin)-|ant-[a-z]{{2,9}}[0-9]{{2}}-){_RUN}{{40,}}",
    "sk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20,}|sk-or-v1-[0-9a-f]{40,}",
    "gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",
    "xox[abprs]-[A-Za-z0-9-]{10,}",  # Slack
    rf"agl-(?:admin|runner|secret|attempt)-{_RUN}{{20,}}",  # Agent Lightning
)
"""Formats of keys that are recognized after any character."""


def _may_match(pattern: str) -> SchemaValidator:
    # Rust's regex engine takes linear time and is up to 50 times faster than Python's.
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _after_boundary(start: str, rest: str) -> str:
    # The pattern begins with `start`, so that Python skips all positions with another first character. It tests for
    # numeric escapes only after two hexadecimal digits, because that is faster.
    escapes, numeric = ("|".join(f"(?<=(?:{each}){start})" for each in kind) for kind in (_ESCAPES, _NUMERIC_ESCAPES))
    return f"{start}(?:(?<![A-Za-z0-9]{start})|{escapes}|(?<={_HEX}{{2}}{start})(?:{numeric})){rest}"


def _maybe_escaped(character: str) -> str:
    """Return a pattern for a character that may be escaped."""
    code = ord(character)
    hexadecimal = f"{code >> 4}(?i:{code & 15:x})"
    return rf"(?:{character}|\\(?:u00|x){hexadecimal}|%(?:25)*{hexadecimal}|&#(?:{code}|x{hexadecimal});)\\*"


# A match covers the longest possible run of characters, and these characters are not searched again. Therefore, the
# search takes linear time.
_KEYS = re.compile("|".join([*(_after_boundary(*each) for each in _BOUNDED), *_UNBOUNDED]).encode())
# Two fast tests precede the search. `_STARTS` looks for the beginnings of all formats in one pass over the text.
# `_CANDIDATES` then rejects words that contain a beginning, such as "task-force".
_BEGINNINGS = (
    "sk-", "earer", "EARER", "AKIA", "AIza", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xoxa-",
    "xoxb-", "xoxp-", "xoxr-", "xoxs-", "agl-admin-", "agl-runner-", "agl-secret-", "agl-attempt-",
)  # fmt: skip
_STARTS = _may_match("|".join(_BEGINNINGS))
_LOOKAHEAD = re.compile(r"\(\?[=!][^)]*\)")  # Rust's regex engine does not support lookahead assertions
_CANDIDATES = _may_match(
    f"(?:^|[^A-Za-z0-9]|{'|'.join((*_ESCAPES, *_NUMERIC_ESCAPES))})"
    f"(?:{'|'.join(_LOOKAHEAD.sub('', start + rest) for start, rest in _BOUNDED)})|" + "|".join(_UNBOUNDED)
)
# Escape sequences for ASCII characters in JSON, programs, URLs and HTML. A text is unescaped only if it contains an
# escaped backslash or another escaped character that may belong to a key. "%20" is not unescaped, so that the text
# before the key, such as "Bearer%20", is not redacted.
_CODE = "(?:2[bBdDeEfF]|3[0-9dD]|4[1-9a-fA-F]|5[0-9aAcCfF]|6[1-9a-fA-F]|7[0-9aAeE])"
_MAY_BE_ESCAPED = _may_match(rf"\\(?:u00|x){_CODE}|\\/|%(?:25)*{_CODE}|&#")
_ESCAPED_CHARACTER = re.compile(
    rf"([\\%&](?:(?<=\\)(?<!\\\\)\\*(?:(?:u00|x)[0-7]{_HEX}|/)|(?<=%)(?:(?:25)+|(?!20))[0-7]{_HEX}"
    rf"|(?<=&)#(?:x[0-7]{_HEX}|[0-9]{{2}}|1[01][0-9]|12[0-7]);))".encode()
)
_ESCAPED_STARTS = _may_match("|".join("".join(map(_maybe_escaped, each)) for each in _BEGINNINGS))
_DIGIT = re.compile(b"[0-9]")
_ASCII = bytes(range(128)) + b"?" * 128


def redact(text: str) -> str:
    """Replace everything in `text` that looks like an API key with `[redacted]`. Valid JSON stays valid."""
    body = text.encode("utf-8", "replace")
    redacted = redact_bytes(body)
    return text if redacted is body else redacted.decode()


def redact_bytes(body: bytes) -> bytes:
    """Replace everything in the UTF-8 text `body` that looks like an API key with `[redacted]`.

    Return the same object if it does not contain a key.
    """
    pieces: list[bytes] = []
    position = 0
    for start, end in _keys(body):
        pieces += (body[position:start], _REDACTED)
        position = end
    return b"".join([*pieces, body[position:]]) if pieces else body


def contains_keys(body: bytes) -> bool:
    """Return True if `redact_bytes` would change `body`."""
    return next(_keys(body), None) is not None


def _keys(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start and end positions of each key, in order."""
    if os.environ.get(KEEP_KEYS_VARIABLE) == "1":
        return
    position = 0
    for block in range(0, len(body), _BLOCK):
        if not _may_contain_keys(body[max(0, block - _CONTEXT) : block + _BLOCK + MAX_KEY]):
            continue
        for first in range(block, min(block + _BLOCK, len(body)), _SLICE):
            offset, last = max(0, first - _CONTEXT), min(first + _SLICE, len(body))
            if position >= last:
                continue
            context = max(first, position) - offset
            for start, end in _keys_in(body[offset : last + MAX_KEY], context):
                if offset + start < last:
                    yield offset + start, offset + end
                    position = offset + end


def _may_contain_keys(text: bytes) -> bool:
    text = _ascii(text)
    if _MAY_BE_ESCAPED.isinstance_python(text):
        return _ESCAPED_STARTS.isinstance_python(text)
    return _has_candidates(text)


def _has_candidates(text: bytes) -> bool:
    return _STARTS.isinstance_python(text) and _CANDIDATES.isinstance_python(text)


def _ascii(text: bytes) -> bytes:
    return text if text.isascii() else text.translate(_ASCII)


def _keys_in(text: bytes, context: int) -> list[tuple[int, int]]:
    """Return the start and end positions of each key in `text` that begins at the position `context` or later."""
    text = _ascii(text)
    if _MAY_BE_ESCAPED.isinstance_python(text) and _ESCAPED_STARTS.isinstance_python(text):
        return _keys_in_escaped(text, context)
    return _keys_in_plain(text, context)


def _keys_in_escaped(text: bytes, context: int) -> list[tuple[int, int]]:
    pieces = _ESCAPED_CHARACTER.split(text)
    starts = [0, *accumulate(map(len, pieces))]
    pieces[1::2] = map(_character, pieces[1::2])
    plain_starts = [0, *accumulate(map(len, pieces))]

    def position(plain: int) -> int:
        piece = bisect_right(plain_starts, plain) - 1
        return starts[piece] + plain - plain_starts[piece]

    piece = bisect_right(starts, context) - 1
    plain_context = min(plain_starts[piece] + context - starts[piece], plain_starts[piece + 1])
    keys = _keys_in_plain(b"".join(pieces), plain_context)
    return [(position(start), position(end)) for start, end in keys]


def _keys_in_plain(text: bytes, context: int) -> list[tuple[int, int]]:
    if not _has_candidates(text):
        return []
    return [
        (match.end("gap"), match.end()) if match.lastgroup == "gap" else match.span()
        for match in _KEYS.finditer(text, context)
        if match.lastgroup != "run" or _DIGIT.search(match["run"])  # "sk-learn-pipelines" is not a key
    ]


@lru_cache(1_000)
def _character(escape: bytes) -> bytes:
    """Return the character that an escape sequence represents."""
    text = escape.rstrip(b";")
    if text.endswith(b"/"):
        return b"/"
    decimal = text[2:] if text.startswith(b"&#") else b""
    return bytes([int(decimal) if decimal.isdigit() else int(text[-2:], 16)])
