"""Redaction of API keys in the text of spans and stored records.

Set AGL_KEEP_KEYS=1 in a process's environment to disable redaction in that process.
"""

from __future__ import annotations

import os
import re

from pydantic_core import SchemaValidator, core_schema

KEEP_KEYS_VARIABLE = "AGL_KEEP_KEYS"

# Rust's regex engine searches for all prefixes in one pass. That is 40 times faster than Python's regex engine or
# separate searches for each prefix.
_KEY_PREFIXES = SchemaValidator(
    core_schema.str_schema(
        pattern="sk-|earer |EARER |AKIA|AIza|hf_|xox|github_pat_|gh[pousr]_|agl-", regex_engine="rust-regex"
    )
)
_KEYS = re.compile(
    rb"(?:(?<![A-Za-z0-9])|(?<=%20))"  # a space may be encoded as %20
    rb"(?:sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{8,}"  # OpenAI, Anthropic, OpenRouter, …
    rb"|(?i:bearer) [A-Za-z0-9._~+/=-]{8,}"
    rb"|AKIA[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    rb"|AIza[A-Za-z0-9_-]{30,}"  # Google
    rb"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{40,}"
    rb"|hf_[A-Za-z0-9]{30,}"  # Hugging Face
    rb"|xox[abprs]-[A-Za-z0-9-]{10,}"  # Slack
    rb"|agl-(?:admin|runner|secret|attempt)-[A-Za-z0-9_-]{20,})"  # Agent Lightning
)
_REDACTED = b"[redacted]"


def redact(text: str) -> str:
    """Replace everything in `text` that looks like an API key with `[redacted]`. Valid JSON stays valid."""
    body = text.encode("utf-8", "replace")
    return redact_bytes(body).decode() if may_contain_keys(body) else text


def redact_bytes(body: bytes) -> bytes:
    """Replace everything in the UTF-8 text `body` that looks like an API key with `[redacted]`."""
    return _KEYS.sub(_REDACTED, body) if may_contain_keys(body) and os.environ.get(KEEP_KEYS_VARIABLE) != "1" else body


def may_contain_keys(body: bytes) -> bool:
    """Return False only if `body` cannot contain an API key. This test is much faster than the exact search."""
    return _KEY_PREFIXES.isinstance_python(body) or not _is_utf8(body)


def _is_utf8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
