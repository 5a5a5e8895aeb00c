"""The examples with the Trainer, each as a user starts it, with a scripted model in place of a service."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.processes import Program
from tests.scripted_model import Answer, Call, ScriptedModel

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def example(name: str, *arguments: str, model: ScriptedModel, cwd: Path) -> Program:
    environment = {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "x", "PYTHONPATH": str(EXAMPLES.parent)}
    return Program(EXAMPLES / name, *arguments, environment=environment, cwd=cwd)


def knows_physics(question: str) -> str:
    return "Rayleigh scattering of sunlight" if "physics teacher" in question else "Because."


def test_the_first_algorithm_needs_one_command_with_the_trainer(tmp_path: Path):
    with ScriptedModel(knows_physics) as model:
        script = example("first_algorithm/first_algorithm_trainer.py", model=model, cwd=tmp_path)
        assert script.wait() == 0, script.output

    script.wait_for_line("^Best prompt found: 'You are a physics teacher")
    assert len(model.calls) == 3


def knows_paris(question: str) -> str:
    return "Paris" if "France" in question else "I do not know."


WAYS = {
    "alone": [r"^\[Alone\] succeeded, reward 1.0"],
    "hook": [r"^\[Hook\] Span\(name='openai.chat.completion'", r"^\[Alone\] succeeded, reward 1.0"],
    "dev": [r"^\[Dev\] {'succeeded': 2}, mean reward 0.5"],
    "broken": [r"Failed in .* KeyError: key 'contry'", r"^\[Dev\] {'failed': 2}, mean reward None"],
}


@pytest.mark.parametrize("way", WAYS)
def test_an_agent_can_be_looked_at_in_four_ways(way: str, tmp_path: Path):
    with ScriptedModel(knows_paris) as model:
        script = example("debugging/debugging.py", way, model=model, cwd=tmp_path)
        assert script.wait() == 0, script.output

    for pattern in WAYS[way]:
        script.wait_for_line(pattern)


class Receptionist:
    """Picks rooms by calling the tool; right once the prompt says to take the smallest that fits."""

    def __init__(self) -> None:
        self.tool_results: list[str] = []

    def __call__(self, call: Call) -> Answer | str:
        match call.body["model"]:
            case "gpt-5-mini":
                return "It does not say to take the smallest free room." if "is right" in call.question else "Fine."
            case "gpt-4.1-mini":
                return "<prompt>{request} Look the rooms up, and take the smallest free room that fits.</prompt>"
            case _:
                return self._choose(call)

    def _choose(self, call: Call) -> Answer | str:
        messages = call.body["messages"]
        request = messages[0]["content"]
        if messages[-1]["role"] != "tool":
            return Answer(tool_calls=[("rooms_at", {"hour": int(re.search(r"(\d+):00", request)[1])})])
        self.tool_results.append(messages[-1]["content"])
        return smallest_that_fits(json.loads(messages[-1]["content"]), request) if "smallest" in request else "Oak"


def smallest_that_fits(rooms: list[dict], request: str) -> str:
    words = {"screen": "slides|screen", "whiteboard": "sketch|whiteboard", "phone": "phone|call"}
    needed = {wish for wish, pattern in words.items() if re.search(pattern, request)}
    people = int(re.search(r"\d+(?!\d*:)", request)[0])
    free = [
        room
        for room in rooms
        if not room["taken"]
        and room["seats"] >= people
        and needed <= set(room["has"])
        and (room["accessible"] or not re.search("wheelchair|accessible", request))
    ]
    return min(free, key=lambda room: room["seats"])["name"]


def test_the_room_selector_learns_to_take_the_smallest_room_that_fits(tmp_path: Path):
    receptionist = Receptionist()
    with ScriptedModel(receptionist, takes_call=True) as model:
        script = example("room_selector/room_selector.py", "--rounds", "1", "--quick", model=model, cwd=tmp_path)
        assert script.wait() == 0, script.output

    script.wait_for_line(r"^Improvement shown: seed 0\.\d+ .*, best 1\.000")
    script.wait_for_line("^{request} Look the rooms up, and take the smallest free room that fits.")
    assert any('"taken": true' in result for result in receptionist.tool_results)
    asked = next(call.question for call in model.calls if call.body["model"] == "gpt-5-mini")
    # Each run has two calls, of which the second repeats the first: the critic is told once.
    assert asked.count("user: Find a meeting room") == asked.count("<run ") == 4


def test_one_request_can_be_tried(tmp_path: Path):
    with ScriptedModel(Receptionist(), takes_call=True) as model:
        script = example("room_selector/room_selector.py", "try", model=model, cwd=tmp_path)
        assert script.wait() == 0, script.output

    script.wait_for_line(r"Reward \d")
