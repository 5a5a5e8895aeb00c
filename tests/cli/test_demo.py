"""`agl demo`: it finds the best prompt and leaves no process running."""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import agentlightning as agl
from agentlightning.cli.demo import MAX_WORDS
from agentlightning.cli.demo.task import PROMPTS, TASKS, parse_messages
from tests.processes import TIMEOUT, Program
from tests.scripted_model import Answer, Call, ScriptedModel

WORDS = 6
"""Number of words to sort in tests of a whole demo."""
LABELS = {task["word"]: task["label"] for task in TASKS}


def answer_with_four_examples(call: Call) -> str:
    """Answer correctly if the chat has four examples."""
    return LABELS[call.question] if len(call.body["messages"]) == 9 else "I am not sure."


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(answer_with_four_examples, takes_call=True) as model:
        yield model


async def test_demo_evaluates_every_prompt_and_names_the_best(model: ScriptedModel, tmp_path: Path) -> None:
    with demo("--folder", str(tmp_path), "--base-url", model.base_url, "--words", str(WORDS)) as program:
        assert program.wait() == 0

    program.wait_for_line(f"^Which of {len(PROMPTS)} prompts sorts {WORDS} words best")
    program.wait_for_line(f"just ask +mean reward 0.00  {WORDS} words")
    program.wait_for_line(f"four examples as a chat +mean reward 1.00  {WORDS} words")
    program.wait_for_line("^Best prompt: four examples as a chat, mean reward 1.00")
    program.wait_for_line("^Total time: .* s on . cores")
    for command in ("dashboard", "store"):
        program.wait_for_line(f"^  .*agl {command} --db {tmp_path}/agl.db$")
    assert len(model.calls) == len(PROMPTS) * WORDS
    async with agl.open_store(str(tmp_path / "agl.db")) as store:
        # One more for the journal of the algorithm.
        assert (await store.statistics())["rollouts"] == {"succeeded": len(PROMPTS) * WORDS + 1}
    answers = re.findall(r"(\w+): '", (tmp_path / "log.txt").read_text())
    assert sorted(answers) == sorted([*LABELS][:WORDS] * len(PROMPTS))


def test_failing_model_is_reported_with_reason(tmp_path: Path) -> None:
    with (
        ScriptedModel(lambda _: Answer(status=400)) as model,
        demo("--folder", str(tmp_path), "--base-url", model.base_url, "--words", str(WORDS)) as program,
    ):
        assert program.wait() == 0

    program.wait_for_line(f"^  {len(PROMPTS) * WORDS} failed: .*400")
    program.wait_for_line("^Best prompt: .*, mean reward 0.00")


def test_killed_runner_is_replaced(model: ScriptedModel, tmp_path: Path) -> None:
    with demo("--folder", str(tmp_path), "--base-url", model.base_url, "--words", "12") as program:
        program.wait_for_line("just ask")
        demo_process = psutil.Process(program.pid)
        (runner,) = set(demo_process.children(recursive=True)) - set(demo_process.children())
        runner.kill()

        assert program.wait(timeout=2 * TIMEOUT) == 0

    program.wait_for_line("^Best prompt: four examples as a chat, mean reward 1.00")
    assert "was killed by SIGKILL" in (tmp_path / "log.txt").read_text()


def test_all_words_are_sorted_by_default() -> None:
    assert len(TASKS) == MAX_WORDS


@pytest.mark.model
@pytest.mark.long
def test_local_model_prefers_prompts_with_examples(tmp_path: Path) -> None:
    with demo("--folder", str(tmp_path), "--words", "8") as program:
        assert program.wait(timeout=200) == 0

    assert float(program.wait_for_line(r"just ask +mean reward (\S+)")[1]) <= 0.2
    assert float(program.wait_for_line(r"^Best prompt: .* as a chat, mean reward (\S+)")[1]) >= 0.9


MOMENTS = {
    "at once": None,
    "before the processes start": "^Which of",
    "while they start": "^Starting",
    "when they are ready": "^Run ",
    "during the rollouts": "just ask",
}


@pytest.mark.model
@pytest.mark.parametrize("moment", ["at once", "before the processes start", "while they start", "when they are ready"])
def test_ctrl_c_stops_all_processes(moment: str, tmp_path: Path) -> None:
    mark = str(uuid.uuid4())
    with demo("--folder", str(tmp_path), MARK=mark) as program:
        wait_until(program, moment)
        os.killpg(program.pid, signal.SIGINT)
        code = program.wait()

    assert_all_end(mark)
    assert code == 130 or moment == "at once"
    assert "Traceback" not in program.output or moment == "at once"


@pytest.mark.model
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_processes_end_with_demo_killed_during_their_start(number: signal.Signals, tmp_path: Path) -> None:
    mark = str(uuid.uuid4())
    with demo("--folder", str(tmp_path), MARK=mark) as program:
        wait_until(program, "while they start")
        program.send_signal(number)
        program.wait()

    assert_all_end(mark)


def test_processes_end_with_demo_killed_during_rollouts(model: ScriptedModel, tmp_path: Path) -> None:
    mark = str(uuid.uuid4())
    with demo("--folder", str(tmp_path), "--base-url", model.base_url, MARK=mark) as program:
        wait_until(program, "during the rollouts")
        program.send_signal(signal.SIGKILL)
        program.wait()

    assert_all_end(mark)


def test_second_ctrl_c_leaves_no_process(model: ScriptedModel, tmp_path: Path) -> None:
    mark = str(uuid.uuid4())
    with demo("--folder", str(tmp_path), "--base-url", model.base_url, MARK=mark) as program:
        wait_until(program, "during the rollouts")
        os.killpg(program.pid, signal.SIGINT)
        program.wait_for_line("^Run .* stopped")
        os.killpg(program.pid, signal.SIGINT)
        program.wait()

    assert_all_end(mark)


def test_prompt_with_roles_becomes_chat() -> None:
    assert parse_messages("Is a cat\nan animal?") == [{"role": "user", "content": "Is a cat\nan animal?"}]
    assert parse_messages("System: Be brief.\nUser: dog\nAssistant: animal\nUser: cat\nor tomcat") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "dog"},
        {"role": "assistant", "content": "animal"},
        {"role": "user", "content": "cat\nor tomcat"},
    ]


def demo(*arguments: str, **environment: str) -> Program:
    return Program("agentlightning.cli", "demo", *arguments, environment=environment)


def wait_until(program: Program, moment: str) -> None:
    if (line := MOMENTS[moment]) is not None:
        program.wait_for_line(line)


def assert_all_end(mark: str) -> None:
    psutil.wait_procs(processes_with(mark), timeout=TIMEOUT)
    assert processes_with(mark) == []


def processes_with(mark: str) -> list[psutil.Process]:
    """Return the processes with `mark` in their environment, which children inherit."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
