"""Keys that must not be kept: what looks like one in a span is replaced before the span is stored."""

from __future__ import annotations

import os
import re

KEEP = "AGL_KEEP_KEYS"
"""Set to 1 in the store's environment, spans are stored as they come."""
SHOWN = b"***"

_KEY = re.compile(
    rb"(?<![A-Za-z0-9])(?:"
    rb"sk-[A-Za-z0-9_-]{16,}"  # OpenAI, Anthropic, OpenRouter and many more
    rb"|AKIA[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    rb"|AIza[A-Za-z0-9_-]{35}"  # Google
    rb"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,}"
    rb"|hf_[A-Za-z0-9]{30,}"  # Hugging Face
    rb"|xox[abprs]-[A-Za-z0-9-]{20,}"  # Slack
    rb"|agl-(?:admin|runner)-[A-Za-z0-9_-]{20,}"  # ours
    rb")"
)
# A key holds one of these. Each begins with one byte, which is found at the speed of memchr: 1 µs for a span without
# keys, where searching for the shapes themselves takes 200.
_SIGNS = (
    re.compile(rb"-[A-Za-z0-9_-]{16,}"),
    re.compile(rb"_[A-Za-z0-9_]{30,}"),
    re.compile(rb"A(?:KIA[A-Z0-9]{16}|Iza[A-Za-z0-9_-]{35})"),
)
_BEFORE = 16


def without_keys(text: bytes) -> bytes:
    """JSON text in which every known shape of key is `***`."""
    return _KEY.sub(SHOWN, text) if _holds_a_key(text) and os.environ.get(KEEP) != "1" else text


def _holds_a_key(text: bytes) -> bool:
    for sign in _SIGNS:
        for found in sign.finditer(text):
            if _KEY.search(text, max(0, found.start() - _BEFORE), found.end()):
                return True
    return False
