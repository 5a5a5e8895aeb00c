"""`kill -9` of an APO run at random moments, resumed each time: its result is that of an uninterrupted run.

    python -m tests.faults.kill_apo --kills 20 --seed 1

One run is uninterrupted. In a second run of the same script, a runner, the algorithm's process, or all processes are
killed, each at a moment chosen by the seed, and the script is started again. Verdict, candidates and counts must be
those of the first run, and the only model calls repeated are those in progress at a kill.
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

from benchmarks.results import write_result
from tests.processes import Program
from tests.scripted_model import Call, ScriptedModel
from tests.trainer.conftest import _mark_of

SCRIPT = Path(__file__).parents[1] / "algorithm/apo_script.py"
RUNNERS, CANDIDATES = 2, 4
"""Calls that can be in progress: one of each runner, and one for each candidate that is being written."""


@dataclass
class KillApoResult:
    """Comparison of both runs."""

    kills: dict[str, int]
    seed: int
    calls_in_peace: dict[str, int]
    """Calls of the uninterrupted run, by model."""
    calls_again: dict[str, int]
    """Additional calls of the other run, by model."""
    same_outcome: bool
    processes_left: int

    @property
    def problems(self) -> list[str]:
        algorithm_kills = self.kills["algorithm"] + self.kills["everything"]
        agent, writers = self.calls_again["agent"], self.calls_again["critic"] + self.calls_again["editor"]
        found = {
            "the outcome differs": not self.same_outcome,
            "processes are left": self.processes_left > 0,
            "finished rollouts were repeated": agent > self.kills["runner"] + RUNNERS * algorithm_kills,
            "finished calls of the writers were repeated": writers > CANDIDATES * algorithm_kills,
            "calls are missing": min(self.calls_again.values()) < 0,
        }
        return [problem for problem, is_present in found.items() if is_present]


def kill_apo_repeatedly(folder: Path, kills: int, seed: int) -> KillApoResult:
    """Execute both runs, each in a subfolder."""
    models, rng = ApoModels(), random.Random(seed)
    targets = [("runner", "algorithm", "everything")[n % 3] for n in range(kills)]
    rng.shuffle(targets)
    with ScriptedModel(models, takes_call=True) as server:
        expected = read_outcome(start_script(server, folder / "uninterrupted"))
        calls = Counter(models.calls)
        models.calls.clear()
        call_numbers = sorted(rng.sample(range(1, calls.total()), kills))
        plan = list(zip(call_numbers, targets, strict=True))
        outcome = _run_with_kills(server, models, folder / "interrupted", plan)
    return KillApoResult(
        kills={target: targets.count(target) for target in ("runner", "algorithm", "everything")},
        seed=seed,
        calls_in_peace=dict(calls),
        calls_again={each: models.calls[each] - calls[each] for each in calls},
        same_outcome=outcome == expected,
        processes_left=len(processes_in(folder / "interrupted")),
    )


def _run_with_kills(
    server: ScriptedModel, models: ApoModels, folder: Path, plan: list[tuple[int, str]]
) -> dict[str, Any]:
    program = start_script(server, folder)
    for call_number, target in plan:
        assert models.wait_for_calls(call_number, program), program.output
        kill(program, folder, target)
        if target != "runner":
            program = start_script(server, folder, "resume=yes")
    return read_outcome(program)


class ApoModels:
    """The agent's model and those of the writers: the more `!` a prompt has, the better the agent's answers."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.called = threading.Condition()

    def __call__(self, call: Call) -> str:
        with self.called:
            self.calls[call.body["model"]] += 1
            self.called.notify_all()
        match call.body["model"]:
            case "agent":
                number = int(_find(r"\d+", call.question)[0])
                return "1" if number % 4 < 1 + call.question.count("!") else "0"
            case "critic":
                return "Say it louder." if "5" in re.findall(r'"number": (\d+)', call.question) else "Say it well."
            case _:
                prompt = _find(r"<prompt>\n(.*?)\n</prompt>", call.question)[1]
                return f"<prompt>{prompt}{'!' if 'louder' in call.question else '.'}</prompt>"

    def wait_for_calls(self, count: int, program: Program) -> bool:
        """Wait until `count` calls were made; return False if the program has ended."""
        with self.called:
            while self.calls.total() < count and program._process.poll() is None:
                self.called.wait(0.05)
        return program._process.poll() is None


def _find(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text, re.DOTALL)
    assert match, f"{pattern} is not in {text!r}"
    return match


def start_script(server: ScriptedModel, folder: Path, *arguments: str) -> Program:
    folder.mkdir(exist_ok=True)
    environment = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "x", "MARK": str(folder)}
    return Program(SCRIPT, *arguments, cwd=folder, environment={"PYTHONPATH": str(Path.cwd()), **environment})


def read_outcome(program: Program) -> dict[str, Any]:
    assert program.wait(timeout=120) == 0, program.output  # a whole APO run
    return json.loads(program.wait_for_line(r"^\[Result\] (.*)")[1])


def processes_in(folder: Path) -> list[psutil.Process]:
    """Return all processes that the script has started in the folder."""
    return [process for process in psutil.process_iter() if _mark_of(process) == str(folder)]


def kill(program: Program, folder: Path, target: str) -> None:
    """Kill a runner, the algorithm, or all processes."""
    match target:
        case "runner":
            [fork_server] = psutil.Process(program.pid).children()
            for runner in fork_server.children()[:1]:
                runner.kill()
        case "algorithm":
            os.kill(program.pid, signal.SIGKILL)
            program.wait()
            psutil.wait_procs(processes_in(folder), timeout=20)
        case _:
            for process in processes_in(folder):
                process.kill()
            program.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        result = kill_apo_repeatedly(Path(folder), arguments.kills, arguments.seed)
    print(result, *result.problems, sep="\n")
    write_result("kill_apo", vars(result))
    sys.exit(bool(result.problems))


if __name__ == "__main__":
    main()
