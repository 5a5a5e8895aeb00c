"""What the scripted model answers to the agents of the matrix, in whatever form their framework asks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tests.scripted_model import Answer, Call

_QUESTION = re.compile(r"What is (\d+) \+ (\d+)\?")


def question(number: int) -> str:
    """What the rollout of this number asks: a sum that no other one asks for."""
    return f"What is {1000 + number} + {2000 + 7 * number}?"


def solution(number: int) -> str:
    """Its answer."""
    return str(3000 + 8 * number)


def conversation(call: Call, calls: Sequence[Call]) -> str:
    """The request's text, after those of the requests that it says it goes on from."""
    before = re.fullmatch(r"resp_(\d+)", str(call.body.get("previous_response_id")))
    return (conversation(calls[int(before[1]) - 1], calls) if before else "") + call.raw


def answer(call: Call, calls: Sequence[Call]) -> Answer:
    """Ask for the tool first; when its result is there, say it."""
    said_so_far = conversation(call, calls)
    a, b = (int(term) for term in _QUESTION.findall(said_so_far)[-1])
    if "[[ ## " in said_so_far:
        return Answer(_dspy(said_so_far, a, b))
    if re.search(rf"(?<!\d){a + b}(?!\d)", said_so_far) is None:
        return Answer(tool_calls=[("add", {"a": a, "b": b})])
    said = f"The sum is {a + b}."
    if "final_answer" in _tools(call.body):
        return Answer(tool_calls=[("final_answer", {"answer": said})])
    return Answer(said)


def _tools(body: dict[str, Any]) -> list[str]:
    given: list[dict[str, Any]] = body.get("tools") or []
    return [str(tool.get("function", tool).get("name")) for tool in given]


def _dspy(asked: str, a: int, b: int) -> str:
    if "next_tool_name" not in asked:
        return _fields(reasoning="It was added.", answer=f"The sum is {a + b}.")
    if "observation_0" in asked:
        return _fields(next_thought="Done.", next_tool_name="finish", next_tool_args="{}")
    return _fields(next_thought="Add.", next_tool_name="add", next_tool_args=json.dumps({"a": a, "b": b}))


def _fields(**fields: str) -> str:
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in {**fields, "completed": ""}.items())
