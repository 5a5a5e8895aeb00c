"""Access tokens that are valid for one attempt only, derived from a secret that agents never receive.

An attempt token consists of the prefix `agl-attempt-`, the rollout id and the attempt id in URL-safe base64, and a
message authentication code (MAC) for the preceding text. A server that has the secret can verify a token and identify
its attempt without any other data.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

_SECRET_PREFIX = "agl-secret-"
"""Prefix that distinguishes secrets from other API keys. `api_key_for_attempt` replaces only secrets."""
ATTEMPT_TOKEN_PREFIX = "agl-attempt-"
_LENGTH_BYTES = 2
"""Number of bytes that encode the length of the rollout id. An id has at most 256 characters of up to 4 bytes."""
_DIGEST_LENGTH = 48
"""Number of hexadecimal digits to which digests are truncated. They hold 192 bits."""


def generate_secret() -> str:
    """Return a new random 192-bit secret."""
    return f"{_SECRET_PREFIX}{secrets.token_hex(24)}"


def derive_secret(token: str) -> str:
    """Derive a secret from the token of a store or proxy. If `token` is already a secret, return it unchanged."""
    return token if token.startswith(_SECRET_PREFIX) else f"{_SECRET_PREFIX}{_digest(token, 'secret')}"


def attempt_token(secret: str, rollout_id: str, attempt_id: str) -> str:
    """Return the token for one attempt. Tokens are not stored; `verified_attempt` checks them with the secret."""
    rollout = rollout_id.encode()
    ids = base64.urlsafe_b64encode(len(rollout).to_bytes(_LENGTH_BYTES) + rollout + attempt_id.encode())
    signed = f"{ATTEMPT_TOKEN_PREFIX}{ids.decode().rstrip('=')}"
    return f"{signed}{_digest(secret, signed)}"


def verified_attempt(token: str, secrets: Iterable[str]) -> tuple[str, str] | None:
    """Return the rollout id and the attempt id in an attempt token, or None if no secret in `secrets` produced it."""
    signed, mac = token[:-_DIGEST_LENGTH], token[-_DIGEST_LENGTH:].encode()
    if not signed.startswith(ATTEMPT_TOKEN_PREFIX):
        return None
    if not any(hmac.compare_digest(mac, _digest(secret, signed).encode()) for secret in secrets):
        return None
    ids = base64.urlsafe_b64decode(signed.removeprefix(ATTEMPT_TOKEN_PREFIX) + "==")
    end = _LENGTH_BYTES + int.from_bytes(ids[:_LENGTH_BYTES])
    return ids[_LENGTH_BYTES:end].decode(), ids[end:].decode()


def api_key_for_attempt(key: str | None, rollout_id: str, attempt_id: str) -> str | None:
    """Return the API key for the agent in this attempt: the attempt's token if `key` is a secret, otherwise `key`."""
    return attempt_token(key, rollout_id, attempt_id) if key is not None and key.startswith(_SECRET_PREFIX) else key


def _digest(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()[:_DIGEST_LENGTH]
