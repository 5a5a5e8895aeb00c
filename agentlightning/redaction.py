"""API keys have no place in a record: whatever looks like one is taken out of every text of every span."""

from __future__ import annotations

import re

_MARKS = (b"sk-", b"earer ", b"EARER ", b"AIza", b"ghp_", b"gho_", b"ghs_", b"hf_", b"xox")
_KEYS = re.compile(
    rb"(?<![A-Za-z0-9])"
    rb"(?:sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{8,}"  # OpenAI, Anthropic, OpenRouter, …
    rb"|(?i:bearer) [A-Za-z0-9._~+/=-]{8,}"
    rb"|AIza[A-Za-z0-9_-]{30,}"  # Google
    rb"|gh[pos]_[A-Za-z0-9]{30,}"  # GitHub
    rb"|hf_[A-Za-z0-9]{30,}"  # Hugging Face
    rb"|xox[abprs]-[A-Za-z0-9-]{10,})"  # Slack
)
_REDACTED = b"[redacted]"


def without_keys(text: str) -> str:
    """The text with everything that looks like an API key replaced; JSON stays JSON."""
    body = text.encode("utf-8", "replace")
    return _KEYS.sub(_REDACTED, body).decode() if may_have_keys(body) else text


def may_have_keys(body: bytes) -> bool:
    """Whether a closer look is worth it. Searching plain bytes is many times faster than the pattern."""
    return any(mark in body for mark in _MARKS)
