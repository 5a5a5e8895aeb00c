"""APO under fire: whatever is killed, whenever, the resumed run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import Program
from tests.scripted_model import Call, ScriptedModel
from tests.trainer.conftest import _mark_of

SCRIPT = Path(__file__).with_name("apo_script.py")
TARGETS = ["runner"] * 12 + ["algorithm"] * 4 + ["everything"] * 4


class Writers:
    """Models that answer by what they are asked: the more `!` a prompt has, the better the agent's answers."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.more = threading.Condition()

    def __call__(self, call: Call) -> str:
        with self.more:
            self.asked[call.body["model"]] += 1
            self.more.notify_all()
        match call.body["model"]:
            case "agent":
                number = int(re.search(r"\d+", call.question)[0])
                return "1" if number % 4 < 1 + call.question.count("!") else "0"
            case "critic":
                return "Say it louder." if "5" in re.findall(r'"number": (\d+)', call.question) else "Say it well."
            case _:
                prompt = re.search(r"<prompt>\n(.*?)\n</prompt>", call.question, re.DOTALL)[1]
                return f"<prompt>{prompt}{'!' if 'louder' in call.question else '.'}</prompt>"

    @property
    def calls(self) -> int:
        return sum(self.asked.values())

    def wait_for(self, calls: int, program: Program) -> bool:
        """Wait until so many calls have come; False when the program has ended before."""
        with self.more:
            while self.calls < calls and program._process.poll() is None:
                self.more.wait(0.05)
        return program._process.poll() is None


@pytest.fixture
def writers() -> Writers:
    return Writers()


@pytest.fixture
def model(writers: Writers) -> Iterator[ScriptedModel]:
    with ScriptedModel(writers, takes_call=True) as model:
        yield model


def start(model: ScriptedModel, folder: Path, *arguments: str) -> Program:
    folder.mkdir(exist_ok=True)
    environment = {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "x", "MARK": str(folder)}
    return Program(SCRIPT, *arguments, cwd=folder, environment={"PYTHONPATH": str(Path.cwd()), **environment})


def outcome(program: Program) -> dict:
    assert program.wait() == 0, program.output
    return json.loads(program.wait_for_line(r"^\[Result\] (.*)")[1])


def family(folder: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _mark_of(process) == str(folder)]


def runners(program: Program) -> list[psutil.Process]:
    [nursery] = psutil.Process(program.pid).children()
    return nursery.children()


def strike(program: Program, folder: Path, target: str) -> None:
    """Kill a runner, the algorithm, or everything at once."""
    match target:
        case "runner":
            for victim in runners(program)[:1]:
                victim.kill()
        case "algorithm":
            os.kill(program.pid, signal.SIGKILL)
            program.wait()
            psutil.wait_procs(family(folder), timeout=20)
        case _:
            for process in family(folder):
                process.kill()
            program.wait()


@pytest.mark.timeout(300)
def test_killed_at_twenty_random_moments_it_ends_as_if_it_had_not_been(
    model: ScriptedModel, writers: Writers, tmp_path: Path
):
    expected = outcome(start(model, tmp_path / "calm"))
    calm = Counter(writers.asked)
    writers.asked.clear()
    chance = random.Random(os.environ.get("SEED", "4"))
    targets = chance.sample(TARGETS, len(TARGETS))
    moments = sorted(chance.sample(range(1, calm.total()), len(targets)))

    folder, program = tmp_path / "stormy", start(model, tmp_path / "stormy")
    for moment, target in zip(moments, targets, strict=True):
        assert writers.wait_for(moment, program), program.output
        strike(program, folder, target)
        if target != "runner":
            program = start(model, folder, "resume=yes")

    assert outcome(program) == expected
    # Two runners may each have a call under way when they are killed, and so may each writer.
    assert calm["agent"] <= writers.asked["agent"] <= calm["agent"] + 2 * len(targets)
    assert writers.asked["critic"] + writers.asked["editor"] <= calm["critic"] + calm["editor"] + 8 * len(targets) / 2
    assert not family(folder)
