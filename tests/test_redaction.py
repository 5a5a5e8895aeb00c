"""Redaction of API keys: the forms that are recognised, stored spans, and the switch that turns it off."""

from __future__ import annotations

import pytest

from agentlightning.redaction import redact_bytes
from agentlightning.store import InMemoryLightningStore

from .contract.making import claimed, span

KEY = "sk-proj-" + "a1B2" * 8


@pytest.mark.parametrize(
    "key",
    ["sk-ant-api03-" + "x" * 40, "AKIA" + "A1" * 8, "github_pat_" + "d" * 50, "xoxb-123456789012-abcdefghij",
     "agl-admin-" + "a" * 40],
)  # fmt: skip
def test_api_keys_are_redacted(key: str) -> None:
    assert redact_bytes(f'["a", "{key}"]'.encode()) == b'["a", "[redacted]"]'


@pytest.mark.parametrize(
    "text",
    ["task-force one", "risk-assessment-of-everything-there-is", "123e4567-e89b-12d3-a456-426614174000",
     "gen_ai_prompt_template_of_the_longest_kind_there_is", "AKIA is a prefix", "sk-", "a" * 500],
)  # fmt: skip
def test_other_text_is_not_redacted(text: str) -> None:
    assert redact_bytes(text.encode()) == text.encode()


async def test_stored_spans_are_redacted() -> None:
    async with InMemoryLightningStore() as store:
        attempted = await claimed(store)

        await store.add_span(span(attempted, attributes={"headers": f"Bearer {KEY}", "list": ["a", KEY], "n": 1}))

        (stored,) = await store.query_spans(attempted.rollout_id)
        assert stored.attributes == {"headers": "[redacted]", "list": ["a", "[redacted]"], "n": 1}


def test_redaction_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_KEEP_KEYS", "1")

    assert redact_bytes(KEY.encode()) == KEY.encode()
