"""Attempt tokens: they name their attempt and prove it."""

from __future__ import annotations

import pytest

from agentlightning.attempt_tokens import ATTEMPT_TOKEN_PREFIX, attempt_token, verified_attempt

SECRET, OTHER = "agl-secret-" + "1" * 48, "agl-secret-" + "2" * 48


@pytest.mark.parametrize(
    ("rollout_id", "attempt_id"),
    [("ro-1", "at-1"), ("a/b", "c"), ("a", "/bc"), ("r", "a" * 256), ("😀" * 256, "😀" * 256), ("=_-~ é", "+/?")],
    ids=range(6),
)
def test_token_names_its_attempt_in_letters_digits_and_hyphens(rollout_id: str, attempt_id: str) -> None:
    token = attempt_token(SECRET, rollout_id, attempt_id)

    assert verified_attempt(token, [OTHER, SECRET]) == (rollout_id, attempt_id)
    assert token.isascii()
    assert token.replace("-", "").replace("_", "").isalnum()


def test_altered_token_is_not_verified() -> None:
    token = attempt_token(SECRET, "ro-1", "at-1")
    another = attempt_token(OTHER, "ro-1", "at-1")
    changed = [token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in range(len(token))]

    for each in (*changed, another, token[:-1], token + "0", token.upper(), f" {token}", "", ATTEMPT_TOKEN_PREFIX):
        assert verified_attempt(each, [SECRET]) is None, each
    assert verified_attempt(f"{ATTEMPT_TOKEN_PREFIX}\xff{token[-48:]}", [SECRET]) is None
    assert verified_attempt(token, []) is None
