r"""Redaction of API keys in the text of spans, errors and log lines.

A key is recognized after any character except an ASCII letter or digit, and after an escape sequence (`\n`, `\u00e9`,
`%20`). The key's own characters may also be escaped (`\u0073k-…`), up to four times in different ways (`%5Cu0073k-…`).
Formats that ordinary text does not contain are recognized even after letters and digits.

The running time is linear in the size of the text. A long text is searched in slices, so that other threads can run in
between.

Set AGL_KEEP_KEYS=1 in a process's environment to disable redaction in that process.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
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
_CONTEXT = 32
"""Maximum number of bytes before a position that determine if a key may begin there."""
_REDACTED = b"[redacted]"

_HEX = "[0-9A-Fa-f]"
_ESCAPES = (
    r"\\[abefnrtv0-7]|\x1b[A-Za-z0-9]|\[[mKJ]|[0-9;][A-HJKSTm]",  # also "\x1b[31m", which sets the color in a terminal
    r"\\[0-7]{2}|\x1b[\[()][A-Za-z0-9]|&[lg]t",
    r"(?:1[bB]|33|\\e)[\[()][A-Za-z0-9]|\[\?[0-9][hl]|&amp",
    r"\[\?[0-9]{2}[hl]|&nbsp|&quot",
    r"\[\?[0-9]{4}[hl]",
)
_NUMERIC_ESCAPES = (
    rf"%{_HEX}{{2}}|=(?:[0-9A-F]{{2}}|[0-9ab][0-9a-f])",  # quoted-printable; not "=desk-1"
    rf"\\[0-7]{{3}}|\\x{_HEX}{{2}}",
    rf"%25{_HEX}{{2}}",
    rf"[\\%]u{_HEX}{{4}}",
    rf"\\U{_HEX}{{8}}",
)
"""Escape sequences (here and in `_ESCAPES`) that end in a letter or digit, but after which a key may begin.

The alternatives in one pattern have the same length, because Python requires it in a lookbehind assertion.
"""
_RUN = "[A-Za-z0-9_-]"
_SPACE = r"(?: {1,9}+|(?P<gap>[+\t]|%(?:25){0,3}(?:20|09)|\\+(?:t|u0020|u0009)))"
_BEARER = "[A-Za-z0-9._~+/=-]{8,}"
_BOUNDED = (
    ("sk-", rf"(?P<run>{_RUN}{{8,}})"),  # OpenAI, Anthropic, OpenRouter, …
    ("[bB](?:earer|EARER)", _SPACE + _BEARER),
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


def _escaped(character: str) -> str:
    """Return a pattern for the escape sequences of a character."""
    code = ord(character)
    hexadecimal = f"{code >> 4}(?i:{code & 15:x})"
    return (
        rf"\\+(?:(?:u00|U0{{6}}|x){hexadecimal}|u\{{0*{hexadecimal}\}}|0?{code:03o})|%(?:25)*(?:u00)?{hexadecimal}"
        rf"|={hexadecimal}|&(?:amp;?)*#(?:0*{code}|[xX]0*{hexadecimal})"
    )


def _maybe_escaped(character: str) -> str:
    return f"(?:{character}|(?:{_escaped(character)});?)"


def _any_of(words: Sequence[str]) -> str:
    """Return a pattern for words whose characters may be escaped. None of the words is the beginning of another."""
    rests = {each[:1]: [other[1:] for other in words if other[:1] == each[:1]] for each in words}
    return "|".join(f"{_maybe_escaped(first)}(?:{_any_of(rest)})" for first, rest in rests.items() if first)


# A match covers the longest possible run of characters, and these characters are not searched again. Therefore, the
# search takes linear time.
#
# A key may end in "bearer" (`sk-1-Bearer TOKEN`, `bearer a-bearer TOKEN`). The token that follows belongs to the match.
_NEXT_TOKEN = rf"(?:(?<=[eE][aA][rR][eE][rR]){_SPACE.replace('?P<gap>', '?:')}{_BEARER})*"
_KEYS = re.compile(
    f"(?:{'|'.join([*(_after_boundary(*each) for each in _BOUNDED), *_UNBOUNDED])}){_NEXT_TOKEN}".encode()
)
# Two fast tests precede the search. `_STARTS` looks for the beginnings of all formats in one pass over the text.
# `_CANDIDATES` then rejects words that contain a beginning, such as "task-force".
_BEGINNINGS = (
    "sk-", "earer", "EARER", "AKIA", "AIza", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xoxa-",
    "xoxb-", "xoxp-", "xoxr-", "xoxs-", "agl-admin-", "agl-runner-", "agl-secret-", "agl-attempt-",
)  # fmt: skip
_STARTS = _may_match("|".join(_BEGINNINGS))
_KEY_IN_RUN = _may_match("|".join(["[0-9]", *_BEGINNINGS[3:]]))
"""Matches in a run of characters after "sk-" that may be a key. For example, "sk-learn-pipelines" does not match."""
_LOOKAHEAD = re.compile(r"\(\?[=!][^)]*\)")  # Rust's regex engine does not support lookahead assertions
_CANDIDATES = _may_match(
    f"(?:^|[^A-Za-z0-9]|{'|'.join((*_ESCAPES, *_NUMERIC_ESCAPES))})"
    f"(?:{'|'.join(_LOOKAHEAD.sub('', start + rest) for start, rest in _BOUNDED)})|" + "|".join(_UNBOUNDED)
)
# Escape sequences for ASCII characters in JSON, programs, URLs, HTML and quoted-printable text. A text is unescaped
# only if it contains an escaped character that may belong to a key or to another escape sequence. "%20" is not
# unescaped, so that the text before the key, such as "Bearer%20", is not redacted.
_LEVELS = 4
"""Maximum number of times that a text is unescaped. `%5Cu0073` and `&amp;#115;` in a URL require more than once."""
_ESCAPED_CHARACTER = re.compile(
    rf"([\\%&=](?:(?<=\\)(?<!\\\\)\\*(?:(?:u00|U0{{6}}|x)[0-7]{_HEX}|u\{{0*[0-7]{_HEX}\}}|0?[01][0-7]{{2}}|/)"
    rf"|(?<=%)(?:(?:25)+|(?!20))(?:u00)?[0-7]{_HEX}|(?<==)[2-7]{_HEX}"
    rf"|(?<=&)(?:amp;?)*#(?:[xX]{_HEX}+|[0-9]+);?))".encode()
)
_CODE = "(?:2[bBdDeEfF]|3[0-9dD]|4[1-9a-fA-F]|5[0-9aAcCfF]|6[1-9a-fA-F]|7[0-9aAeE])"
# The first characters of an escape sequence, with "&", "\\" or "%" escaped in another way.
_ESCAPED_TWICE = (
    rf"(?:{_escaped('&')});?(?:amp;?)*(?:#|{_escaped('#')})|&(?:{_escaped('#')})"
    rf"|(?:{_escaped(chr(92))});?[uUx0-7]|(?:\\+(?:u00|x)25|&#(?:37|x25);)[2-7u]"
)
# In quoted-printable text, the next character is tested too, because "=50" is frequent in ordinary text.
_MAY_BE_ESCAPED = _may_match(
    rf"\\(?:(?:u00|U0{{6}}|x)(?:{_CODE}|25[2-7u]|26(?:#|amp|\\))|u\{{|0?[01][0-7]{{2}}|/)|%(?:25)*(?:u00)?{_CODE}"
    rf"|%25{_HEX}|%26(?:#|%|amp)|&(?:amp;?)*#|=(?:[4-7]{_HEX}[A-Za-z=_-]|2[dD]|5[fF])"
)
_ESCAPED_SK = _any_of(["sk-"])
_ESCAPED_STARTS = _may_match(
    rf"(?:^|[^A-Za-z0-9]|[\\%=&\x1b][A-Za-z0-9#?;\[(%\\]*){_ESCAPED_SK}"
    rf"|{_ESCAPED_SK}(?:(?:proj|svcacct|admin|ant|or-v1)-|[A-Za-z0-9-]*(?:\\+[uUx0-7]|[%=&])|[A-Za-z0-9]{{20}})"
    rf"|{_any_of(_BEGINNINGS[1:])}|{_ESCAPED_TWICE}"
)
"""Matches if a text may contain a key after it is unescaped. The word "task-force" alone does not match."""
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


def _may_contain_keys(body: bytes) -> bool:
    text = ascii_only(body).decode("ascii")  # decoded only once; the tests would decode bytes again
    if _MAY_BE_ESCAPED.isinstance_python(text):
        return _ESCAPED_STARTS.isinstance_python(text)
    return _has_candidates(text)


def _has_candidates(text: bytes | str) -> bool:
    return _STARTS.isinstance_python(text) and _CANDIDATES.isinstance_python(text)


def ascii_only(text: bytes) -> bytes:
    """Return the text with `?` instead of each non-ASCII byte, so that it is valid UTF-8 wherever it was cut."""
    return text if text.isascii() else text.translate(_ASCII)


def _keys_in(text: bytes, context: int, levels: int = _LEVELS) -> list[tuple[int, int]]:
    """Return the start and end positions of each key in `text` that begins at the position `context` or later.

    Search the text as it is, and after unescaping it up to `levels` times.
    """
    text = ascii_only(text)
    keys = _keys_in_plain(text, context)
    if levels and _MAY_BE_ESCAPED.isinstance_python(text) and _ESCAPED_STARTS.isinstance_python(text):
        keys = _merged(keys + _keys_in_unescaped(text, context, levels - 1))
    return keys


def _keys_in_unescaped(text: bytes, context: int, levels: int) -> list[tuple[int, int]]:
    pieces = _ESCAPED_CHARACTER.split(text)
    if len(pieces) == 1:
        return []
    starts = [0, *accumulate(map(len, pieces))]
    pieces[1::2] = map(_character, pieces[1::2])
    plain_starts = [0, *accumulate(map(len, pieces))]

    def position(plain: int) -> int:
        piece = bisect_right(plain_starts, plain) - 1
        return starts[piece] + plain - plain_starts[piece]

    piece = min(bisect_right(starts, context), len(pieces)) - 1
    plain_context = min(plain_starts[piece] + context - starts[piece], plain_starts[piece + 1])
    keys = _keys_in(b"".join(pieces), plain_context, levels)
    return [(position(start), position(end)) for start, end in keys]


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return sorted ranges that cover the same positions and do not overlap."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _keys_in_plain(text: bytes, context: int) -> list[tuple[int, int]]:
    if not _has_candidates(text):
        return []
    return [
        (match.end("gap"), match.end()) if match.lastgroup == "gap" else match.span()
        for match in _KEYS.finditer(text, context)
        if match.lastgroup != "run" or _KEY_IN_RUN.isinstance_python(match["run"]) or match.end() > match.end("run")
    ]


@lru_cache(1_000)
def _character(escape: bytes) -> bytes:
    """Return the ASCII character that an escape sequence represents, or `?` for another character."""
    text = escape.rstrip(b";}")
    if text.endswith(b"/"):
        return b"/"
    code = _code_point(text)
    return bytes([code]) if code < 128 else b"?"


def _code_point(escape: bytes) -> int:
    if escape.startswith(b"&"):
        digits = escape.partition(b"#")[2]
        return int(digits[1:][-16:], 16) if digits[:1] in b"xX" else int(digits[-16:])
    if escape.startswith(b"\\") and escape.lstrip(b"\\")[:1].isdigit():
        return int(escape.lstrip(b"\\"), 8)
    return int(escape[-2:], 16)
