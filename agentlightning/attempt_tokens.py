"""Tokens that speak for one attempt only, made from a secret that agents never see."""

from __future__ import annotations

import hashlib
import hmac
import secrets

SECRET = "agl-proxy-"
"""How secrets of ours begin, so that other keys are left as they are."""


def new_secret() -> str:
    """A secret of 192 bits."""
    return f"{SECRET}{secrets.token_hex(24)}"


def attempt_token(secret: str, rollout_id: str, attempt_id: str) -> str:
    """What opens this attempt, and no other; whoever has the secret can tell without having stored it."""
    whose = f"{len(rollout_id)}:{rollout_id}/{attempt_id}".encode()
    return f"agl-attempt-{hmac.new(secret.encode(), whose, hashlib.sha256).hexdigest()[:48]}"
