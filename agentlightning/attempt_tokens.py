"""Tokens that speak for one attempt only, made from a secret that agents never see."""

from __future__ import annotations

import hashlib
import hmac
import secrets

_SECRET = "agl-secret-"
"""How secrets of ours begin, so that other API keys are left as they are."""
ATTEMPT_TOKEN = "agl-attempt-"
"""How tokens for one attempt begin."""


def new_secret() -> str:
    """A secret of 192 bits."""
    return f"{_SECRET}{secrets.token_hex(24)}"


def secret_of(token: str) -> str:
    """The secret that belongs to a token of any form; one that is a secret already is its own."""
    return token if token.startswith(_SECRET) else f"{_SECRET}{_digest(token, 'secret')}"


def attempt_token(secret: str, rollout_id: str, attempt_id: str) -> str:
    """What opens this attempt, and no other; whoever has the secret can tell without having stored it."""
    return f"{ATTEMPT_TOKEN}{_digest(secret, f'{len(rollout_id)}:{rollout_id}/{attempt_id}')}"


def key_for_attempt(key: str | None, rollout_id: str, attempt_id: str) -> str | None:
    """The API key to give an agent for this attempt: of a secret its token, any other key as it is."""
    return attempt_token(key, rollout_id, attempt_id) if key is not None and key.startswith(_SECRET) else key


def _digest(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()[:48]
