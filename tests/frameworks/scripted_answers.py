"""The scripted model's answers to the agents of the matrix, in the form of each framework."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tests.scripted_model import Answer, Call

_QUESTION = re.compile(r"What is (\d+) \+ (\d+)\?")


def question(number: int) -> str:
    """Return the question of a rollout: a sum that no other rollout asks for."""
    return f"What is {1000 + number} + {2000 + 7 * number}?"


def solution(number: int) -> str:
    """Return the answer."""
    return str(3000 + 8 * number)


def conversation(call: Call, calls: Sequence[Call]) -> str:
    """Return the text of a request, after the text of the requests that it continues."""
    previous = re.fullmatch(r"resp_(\d+)", str(call.body.get("previous_response_id")))
    return (conversation(calls[int(previous[1]) - 1], calls) if previous else "") + call.raw


def answer(call: Call, calls: Sequence[Call]) -> Answer:
    """Call the tool first, and answer with its result."""
    text = conversation(call, calls)
    a, b = (int(term) for term in _QUESTION.findall(text)[-1])
    if "[[ ## " in text:
        return Answer(_dspy(text, a, b))
    if re.search(rf"(?<!\d){a + b}(?!\d)", text) is None:
        return Answer(tool_calls=[("add", {"a": a, "b": b})])
    result = f"The sum is {a + b}."
    if "final_answer" in _tools(call.body):
        return Answer(tool_calls=[("final_answer", {"answer": result})])
    return Answer(result)


def _tools(body: dict[str, Any]) -> list[str]:
    tools: list[dict[str, Any]] = body.get("tools") or []
    return [str(tool.get("function", tool).get("name")) for tool in tools]


def _dspy(prompt: str, a: int, b: int) -> str:
    if "next_tool_name" not in prompt:
        return _fields(reasoning="It was added.", answer=f"The sum is {a + b}.")
    if "observation_0" in prompt:
        return _fields(next_thought="Done.", next_tool_name="finish", next_tool_args="{}")
    return _fields(next_thought="Add.", next_tool_name="add", next_tool_args=json.dumps({"a": a, "b": b}))


def _fields(**fields: str) -> str:
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in {**fields, "completed": ""}.items())
