"""JSON payloads: accepted values survive unchanged, and invalid ones are rejected."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel

from agentlightning.errors import InvalidInput
from agentlightning.payload import MAX_DEPTH, check, dumps, dumps_unchecked, loads
from agentlightning.types import PaginatedResult


class Task(BaseModel):
    question: str
    weight: float = 1.0


@dataclass
class Item:
    score: Any


def nested(depth: int, kind: type = list) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = {"k": value} if kind is dict else kind([value])
    return value


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_values_survive_and_are_standard_json(value: Any) -> None:
    text = dumps(value)

    assert loads(text) == value
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Task(question="why?"), b'{"question":"why?","weight":1.0}'),
        ([Task(question="why?")], b'[{"question":"why?","weight":1.0}]'),
        (Item(score=0.5), b'{"score":0.5}'),
        ({"when": datetime(2025, 10, 14, 22, 23, 41, tzinfo=UTC)}, None),
        (("a", 1), b'["a",1]'),
        ({1}, b"[1]"),
    ],
)
def test_python_objects_are_converted_to_plain_json(value: Any, text: bytes | None) -> None:
    assert dumps(value) == text if text else loads(dumps(value))["when"].startswith("2025-10-14T22:23:41")


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda number: number, id="alone"),
        pytest.param(lambda number: [1, [number]], id="list"),
        pytest.param(lambda number: {"a": {"b": number}}, id="dict"),
        pytest.param(lambda number: (number,), id="tuple"),
        pytest.param(lambda number: Task(question="", weight=number), id="model"),
        pytest.param(lambda number: {"deep": [Task(question="", weight=number)]}, id="model-in-list"),
        pytest.param(lambda number: Item(number), id="dataclass"),
        pytest.param(lambda number: [Item([number])], id="list-in-dataclass"),
        pytest.param(lambda number: {"set": {number}}, id="set"),
    ],
)
def test_nan_and_infinities_are_rejected_at_any_depth(wrap: Any) -> None:
    for number in (math.nan, math.inf, -math.inf):
        with pytest.raises(InvalidInput, match="input") as caught:
            dumps(wrap(number), field="input")

        assert caught.value.field == "input"


@pytest.mark.parametrize(
    "value",
    ["\ud800", "ok \udfff ok", ["\ud83d"], {"key": "\udc00"}, {"\udc00": 1}, Task(question="\ud800")],
    ids=["alone", "inside", "list", "value", "key", "model"],
)
def test_lone_surrogates_are_rejected(value: Any) -> None:
    with pytest.raises(InvalidInput, match="input"):
        dumps(value, field="input")


def test_surrogate_pairs_are_accepted() -> None:
    assert loads(b'"\\ud83d\\ude00"') == "😀"
    assert loads(dumps("😀")) == "😀"


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0])
def test_64_bit_integers_are_exact(number: int) -> None:
    assert loads(dumps(number)) == number


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_larger_integers_are_rejected(number: int) -> None:
    with pytest.raises(InvalidInput, match="input"):
        dumps({"n": number}, field="input")
    with pytest.raises(InvalidInput):
        loads(f'{{"n": {number}}}')


@pytest.mark.parametrize("kind", [list, dict, tuple])
def test_nesting_beyond_limit_is_rejected(kind: type) -> None:
    assert MAX_DEPTH == 64

    check(nested(64, kind))
    with pytest.raises(InvalidInput, match="input nests deeper than 64 levels"):
        check(nested(65, kind), field="input")


@pytest.mark.parametrize("depth", [65, 1_000, 100_000])
def test_deep_json_text_is_rejected(depth: int) -> None:
    with pytest.raises(InvalidInput):
        loads("[" * depth + "0" + "]" * depth)


Page = PaginatedResult[Item]
"""Parametrised in this module first, so pydantic attributes the class to this module."""


def test_generic_type_parametrised_elsewhere_is_encoded_by_its_fields() -> None:
    page = Page.model_construct(items=[nested(MAX_DEPTH)], limit=1, offset=0, total=1)

    assert json.loads(dumps_unchecked(page))["items"] == [nested(MAX_DEPTH)]


def test_recursive_list_is_rejected() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(InvalidInput, match="deeper"):
        dumps(loop)


@pytest.mark.parametrize("value", [{1: "a"}, {None: "a"}, {("a", "b"): 1}, {"ok": {2.5: 1}}])
def test_non_string_keys_are_rejected(value: Any) -> None:
    with pytest.raises(InvalidInput, match="input"):
        dumps(value, field="input")


@pytest.mark.parametrize("value", [object(), lambda: None, ..., [object()], {"a": object()}])
def test_unsupported_value_names_field(value: Any) -> None:
    with pytest.raises(InvalidInput, match="metadata") as caught:
        dumps(value, field="metadata")

    assert caught.value.field == "metadata"


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "nope", "{'a': 1}", '{"a": 1,}', "NaN", '{"a": NaN}', "[Infinity]", "-Infinity", "[1e999]",
     '"\\ud800"', b'"\xff"', '"line\nbreak"', "1 2"],
)  # fmt: skip
def test_invalid_json_text_is_rejected(text: str | bytes) -> None:
    with pytest.raises(InvalidInput):
        loads(text)
