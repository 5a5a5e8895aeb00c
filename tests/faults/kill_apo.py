"""`kill -9` of an APO run at random moments, resumed each time: it ends as if nothing had happened.

    python -m tests.faults.kill_apo --kills 20 --seed 1

One run goes in peace; the same run again has a runner, the algorithm's process, or everything at once killed, each at a
moment that the seed decides, and is resumed by starting the same script. Verdict, candidates and counts have to be
those of the first, and no model call may come again but those that were in flight when something was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from tests.processes import Program
from tests.scripted_model import Call, ScriptedModel
from tests.trainer.conftest import _mark_of

from .results import record

SCRIPT = Path(__file__).parents[1] / "algorithm/apo_script.py"
RUNNERS, CANDIDATES = 2, 4
"""How many calls the script may have in flight: one of each runner's, one of each candidate that is being written."""


@dataclass
class Result:
    """What came of both runs."""

    kills: dict[str, int]
    seed: int
    calls_in_peace: dict[str, int]
    calls_again: dict[str, int]
    """By model: those that came more often than in peace."""
    same_outcome: bool
    processes_left: int

    @property
    def wrong(self) -> list[str]:
        """What should not be."""
        with_algorithm = self.kills["algorithm"] + self.kills["everything"]
        agent, writers = self.calls_again["agent"], self.calls_again["critic"] + self.calls_again["editor"]
        found = {
            "the outcome is another one": not self.same_outcome,
            "processes are left": self.processes_left > 0,
            "finished rollouts were run again": agent > self.kills["runner"] + RUNNERS * with_algorithm,
            "answers of the writers were paid for again": writers > CANDIDATES * with_algorithm,
            "calls are missing": min(self.calls_again.values()) < 0,
        }
        return [complaint for complaint, true in found.items() if true]


def kill_an_apo_run(folder: Path, kills: int, seed: int) -> Result:
    """Both runs, in two folders beneath `folder`."""
    writers, chance = Writers(), random.Random(seed)
    targets = [("runner", "runner", "runner", "algorithm", "everything")[n % 5] for n in range(kills)]
    chance.shuffle(targets)
    with ScriptedModel(writers, takes_call=True) as model:
        expected = outcome(start(model, folder / "calm"))
        calm = Counter(writers.asked)
        writers.asked.clear()
        moments = sorted(chance.sample(range(1, calm.total()), kills))
        found = _killed(model, writers, folder / "stormy", list(zip(moments, targets, strict=True)))
    return Result(
        kills={target: targets.count(target) for target in ("runner", "algorithm", "everything")},
        seed=seed,
        calls_in_peace=dict(calm),
        calls_again={each: writers.asked[each] - calm[each] for each in calm},
        same_outcome=found == expected,
        processes_left=len(family(folder / "stormy")),
    )


def _killed(model: ScriptedModel, writers: Writers, folder: Path, plan: list[tuple[int, str]]) -> dict[str, Any]:
    program = start(model, folder)
    for moment, target in plan:
        assert writers.wait_for(moment, program), program.output
        strike(program, folder, target)
        if target != "runner":
            program = start(model, folder, "resume=yes")
    return outcome(program)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        result = kill_an_apo_run(Path(folder), given.kills, given.seed)
    print(result, *result.wrong, sep="\n")
    record("kill_apo", vars(result))
    sys.exit(bool(result.wrong))


if __name__ == "__main__":
    main()
