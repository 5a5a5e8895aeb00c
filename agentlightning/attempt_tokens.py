"""Access tokens that are valid for one attempt only, derived from a secret that agents never receive."""

from __future__ import annotations

import hashlib
import hmac
import secrets

_SECRET_PREFIX = "agl-secret-"
"""Prefix that distinguishes secrets from other API keys. `api_key_for_attempt` replaces only secrets."""
ATTEMPT_TOKEN_PREFIX = "agl-attempt-"


def generate_secret() -> str:
    """Return a new random 192-bit secret."""
    return f"{_SECRET_PREFIX}{secrets.token_hex(24)}"


def derive_secret(token: str) -> str:
    """Derive a secret from the token of a store or proxy. If `token` is already a secret, return it unchanged."""
    return token if token.startswith(_SECRET_PREFIX) else f"{_SECRET_PREFIX}{_digest(token, 'secret')}"


def attempt_token(secret: str, rollout_id: str, attempt_id: str) -> str:
    """Return the token for one attempt. Tokens are not stored: a server that has the secret derives them again."""
    return f"{ATTEMPT_TOKEN_PREFIX}{_digest(secret, f'{len(rollout_id)}:{rollout_id}/{attempt_id}')}"


def api_key_for_attempt(key: str | None, rollout_id: str, attempt_id: str) -> str | None:
    """Return the API key for the agent in this attempt: the attempt's token if `key` is a secret, otherwise `key`."""
    return attempt_token(key, rollout_id, attempt_id) if key is not None and key.startswith(_SECRET_PREFIX) else key


def _digest(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()[:48]
