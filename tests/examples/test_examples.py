"""The examples, started as a user starts them, with a scripted model instead of a service."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.processes import Program
from tests.scripted_model import Answer, Call, ScriptedModel

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def start_example(name: str, *arguments: str, model: ScriptedModel, cwd: Path) -> Program:
    environment = {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "x", "PYTHONPATH": str(EXAMPLES.parent)}
    return Program(EXAMPLES / name, *arguments, environment=environment, cwd=cwd)


def answer_physics(question: str) -> str:
    return "Rayleigh scattering of sunlight" if "physics teacher" in question else "Because."


def test_first_algorithm_runs_with_trainer(tmp_path: Path):
    with ScriptedModel(answer_physics) as model:
        script = start_example("first_algorithm/first_algorithm_trainer.py", model=model, cwd=tmp_path)
        assert script.wait() == 0, script.output

    script.wait_for_line("^Best prompt found: 'You are a physics teacher")
    assert len(model.calls) == 3


def answer_paris(question: str) -> str:
    return "Paris" if "France" in question else "I do not know."


MODES = {
    "hook": [r"^\[Hook\] Span\(name='openai.chat.completion'", r"^\[Alone\] succeeded, reward 1.0"],
    "dev": [r"^\[Dev\] {'succeeded': 2}, mean reward 0.5"],
    "broken": [r"Failed in .* KeyError: key 'contry'", r"^\[Dev\] {'failed': 2}, mean reward None"],
}


@pytest.mark.parametrize("mode", MODES)
def test_debugging_example(mode: str, tmp_path: Path):
    with ScriptedModel(answer_paris) as model:
        script = start_example("debugging/debugging.py", mode, model=model, cwd=tmp_path)
        assert script.wait() == 0, script.output

    for pattern in MODES[mode]:
        script.wait_for_line(pattern)


class RoomModel:
    """Selects rooms with the tool; correct once the prompt asks for the smallest that fits."""

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
        return smallest_fitting_room(json.loads(messages[-1]["content"]), request) if "smallest" in request else "Oak"


def smallest_fitting_room(rooms: list[dict], request: str) -> str:
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


def test_room_selector_learns_to_choose_smallest_fitting_room(tmp_path: Path):
    room_model = RoomModel()
    with ScriptedModel(room_model, takes_call=True) as model:
        script = start_example("room_selector/room_selector.py", "--rounds", "1", "--quick", model=model, cwd=tmp_path)
        assert script.wait(45) == 0, script.output

    script.wait_for_line(r"^Improvement shown: seed 0\.\d+ .*, best 1\.000")
    script.wait_for_line("^{request} Look the rooms up, and take the smallest free room that fits.")
    assert any('"taken": true' in result for result in room_model.tool_results)
    critic_prompt = next(call.question for call in model.calls if call.body["model"] == "gpt-5-mini")
    # The second call of each run repeats the messages of the first; the critic reads them once.
    assert critic_prompt.count("user: Find a meeting room") == critic_prompt.count("<run ") == 4


def test_room_selector_tries_one_request(tmp_path: Path):
    with ScriptedModel(RoomModel(), takes_call=True) as model:
        script = start_example("room_selector/room_selector.py", "try", model=model, cwd=tmp_path)
        assert script.wait() == 0, script.output

    script.wait_for_line(r"Reward \d")
