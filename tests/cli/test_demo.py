"""`agl demo`: it finds the best prompt, and leaves nothing running however it ends."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import agentlightning as agl
from agentlightning.cli.demo.task import PROMPTS, TASKS, parse_messages
from tests.processes import TIMEOUT, Program
from tests.scripted_model import Answer, Call, ScriptedModel

LABELS = {task["word"]: task["label"] for task in TASKS}


def knows_with_four_examples(call: Call) -> str:
    """Right when the chat is long enough, else beside the point."""
    return LABELS[call.question] if len(call.body["messages"]) == 9 else "I am not sure."


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(knows_with_four_examples, takes_call=True) as model:
        yield model


async def test_it_tries_every_prompt_on_every_word_and_names_the_best(model: ScriptedModel, tmp_path: Path) -> None:
    with demo("--folder", str(tmp_path), "--base-url", model.base_url) as program:
        assert program.wait() == 0

    program.wait_for_line(f"^Which of {len(PROMPTS)} prompts sorts {len(TASKS)} words best")
    program.wait_for_line("just ask +mean reward 0.00  24 words")
    program.wait_for_line("four examples as a chat +mean reward 1.00  24 words")
    program.wait_for_line("^Best prompt: four examples as a chat, mean reward 1.00")
    program.wait_for_line("^Total time: .* s on . cores")
    for command in ("dashboard", "store"):
        program.wait_for_line(f"^  .*agl {command} --db {tmp_path}/agl.db$")
    assert len(model.calls) == len(PROMPTS) * len(TASKS)
    async with agl.open_store(str(tmp_path / "agl.db")) as store:
        assert (await store.statistics())["rollouts"] == {"succeeded": len(PROMPTS) * len(TASKS)}


def test_a_model_that_fails_gives_no_reward_and_the_reason(tmp_path: Path) -> None:
    with (
        ScriptedModel(lambda _: Answer(status=400)) as model,
        demo("--folder", str(tmp_path), "--base-url", model.base_url) as program,
    ):
        assert program.wait() == 0

    program.wait_for_line("^120 rollouts ended without a reward, which counts as 0. The first: ro-.* failed: .*400")


def test_a_part_that_dies_ends_the_demo_with_its_last_words(model: ScriptedModel, tmp_path: Path) -> None:
    with demo("--folder", str(tmp_path), "--base-url", model.base_url) as program:
        program.wait_for_line("^Ready")
        for process in psutil.Process(program.pid).children():
            if "agentlightning.cli.demo.task" in process.cmdline():
                process.kill()

        assert program.wait() == 1

    program.wait_for_line(f"^Error: the runner's process ended unexpectedly.*{tmp_path}/runner.log")


@pytest.mark.model
@pytest.mark.slow
def test_on_the_local_model_worked_examples_win(tmp_path: Path) -> None:
    with demo("--folder", str(tmp_path)) as program:
        assert program.wait(timeout=250) == 0

    assert float(program.wait_for_line(r"just ask +mean reward (\S+)")[1]) <= 0.2
    assert float(program.wait_for_line(r"^Best prompt: .* as a chat, mean reward (\S+)")[1]) >= 0.9


MOMENTS = {
    "at once": None,
    "before the parts start": "^Which of",
    "while they start": "^Starting",
    "when they are ready": "^Ready",
    "amid the work": "just ask",
}


@pytest.mark.model
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_ctrl_c_leaves_no_process_behind(moment: str, tmp_path: Path) -> None:
    mark = str(uuid.uuid4())
    with demo("--folder", str(tmp_path), MARK=mark) as program:
        reach(program, moment)
        os.killpg(program.pid, signal.SIGINT)
        code = program.wait()

    psutil.wait_procs(marked(mark), timeout=TIMEOUT)
    assert marked(mark) == []
    assert code == 130 or moment == "at once"
    assert "Traceback" not in program.output or moment == "at once"


@pytest.mark.model
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_demo_that_is_killed_while_its_parts_start_leaves_none_behind(number: signal.Signals, tmp_path: Path) -> None:
    mark = str(uuid.uuid4())
    with demo("--folder", str(tmp_path), MARK=mark) as program:
        reach(program, "while they start")
        program.send_signal(number)
        program.wait()

    psutil.wait_procs(marked(mark), timeout=TIMEOUT)
    assert marked(mark) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_demo_that_is_killed_amid_the_work_leaves_no_process_behind(
    number: signal.Signals, model: ScriptedModel, tmp_path: Path
) -> None:
    mark = str(uuid.uuid4())
    with demo("--folder", str(tmp_path), "--base-url", model.base_url, MARK=mark) as program:
        reach(program, "amid the work")
        program.send_signal(number)
        program.wait()

    psutil.wait_procs(marked(mark), timeout=TIMEOUT)
    assert marked(mark) == []


def test_a_ctrl_c_for_the_impatient_leaves_no_process_behind(model: ScriptedModel, tmp_path: Path) -> None:
    mark = str(uuid.uuid4())
    with demo("--folder", str(tmp_path), "--base-url", model.base_url, MARK=mark) as program:
        reach(program, "amid the work")
        os.killpg(program.pid, signal.SIGINT)
        program.wait_for_line("Stopping")
        os.killpg(program.pid, signal.SIGINT)
        program.wait()

    psutil.wait_procs(marked(mark), timeout=TIMEOUT)
    assert marked(mark) == []


def test_a_prompt_with_roles_is_a_chat_and_one_without_is_a_message() -> None:
    assert parse_messages("Is a cat\nan animal?") == [{"role": "user", "content": "Is a cat\nan animal?"}]
    assert parse_messages("System: Be brief.\nUser: dog\nAssistant: animal\nUser: cat\nor tomcat") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "dog"},
        {"role": "assistant", "content": "animal"},
        {"role": "user", "content": "cat\nor tomcat"},
    ]


def demo(*arguments: str, **environment: str) -> Program:
    return Program("agentlightning.cli", "demo", *arguments, environment=environment)


def reach(program: Program, moment: str) -> None:
    if (line := MOMENTS[moment]) is not None:
        program.wait_for_line(line)


def marked(mark: str) -> list[psutil.Process]:
    """The processes that have `mark` in their environment, handed down from parent to child."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
