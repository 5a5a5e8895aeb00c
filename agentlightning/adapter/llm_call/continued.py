"""Calls that go on from an earlier answer, which the server remembers: what they do not repeat is put before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .view import Json, LLMCall

_BEFORE = "previous_response_id"


def continued(calls: Sequence[LLMCall]) -> list[LLMCall]:
    """The calls, each with the whole conversation that the model was shown, where its beginning is among them."""
    by_id: dict[str, LLMCall] = {}
    whole: list[LLMCall] = []
    for call in calls:
        before = by_id.get(str(call.parameters.get(_BEFORE)))
        shown = replace(call, messages=_after(before, call.messages)) if before else call
        whole.append(shown)
        if shown.response_id:
            by_id[shown.response_id] = shown
    return whole


def _after(before: LLMCall, messages: list[Json]) -> list[Json]:
    # Instructions hold for one call: those of the earlier one make way for the later one's.
    anew = messages[:1] if _is_system(messages) else []
    kept = before.messages[1:] if anew and _is_system(before.messages) else before.messages
    return [*anew, *kept, *before.output, *messages[len(anew) :]]


def _is_system(messages: list[Json]) -> bool:
    return bool(messages) and messages[0].get("role") == "system"
