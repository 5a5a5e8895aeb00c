"""The tutorial, word for word, in three terminals."""

from __future__ import annotations

import ast
import itertools
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from agentlightning.local_model import LocalModel, serve_local_model
from tests.acceptance.stage import SKY, Stage
from tests.processes import Program
from tests.scripted_model import ScriptedModel

PROMPTS = [
    "You are a helpful assistant. {any_question}",
    "You are a knowledgeable AI. {any_question}",
    "You are a friendly chatbot. {any_question}",
]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ScriptedModel(lambda question: f"{SKY}: {question}") as model, Stage(tmp_path, model.base_url) as stage:
        yield stage


def test_the_algorithm_prints_what_the_tutorial_shows(stage: Stage) -> None:
    stage.store()
    stage.runner()
    algo = stage.algo()

    assert algo.wait() == 0

    rewards = finished(algo)
    assert [line.partition(" ")[0] for line in algo.lines if line and not line.startswith("  - ")] == ["[Algo]"] * 20
    for prompt in PROMPTS:
        assert f"[Algo] Updating prompt template to: '{prompt}'" in algo.lines
        said = prompt.replace("{any_question}", "Why is the sky blue?")
        algo.wait_for_line(
            rf"^  - Span\(name='openai.chat.completion', attributes={{.*'gen_ai.prompt.0.content': '{said[:-1]}\?'"
            rf".*'gen_ai.completion.0.content': '{SKY}: {said[:-1]}\?'"
        )
    assert algo.output.count("[Algo] Received Result: ") == algo.output.count('"status":"succeeded"') / 2 == 3
    best = max(rewards, key=lambda item: item[1])
    assert algo.lines[-1] == f"[Algo] Best prompt found: '{best[0]}' with reward {best[1]}"


def test_the_runner_and_the_store_log_what_the_tutorial_shows(stage: Stage) -> None:
    store, runner, algo = stage.store(), stage.runner(), stage.algo()

    assert algo.wait() == 0

    time = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[INFO\] .*"
    runner.wait_for_line(time + r"\[Worker 0\] Setting up tracer\.\.\.")
    runner.wait_for_line(time + r"\[Worker 0\] Instrumentation applied\.")
    runner.wait_for_line(time + r"\[Worker 0\] Started async rollouts \(max: unlimited\)\.")
    runner.wait_for_line(rf"^\[Rollout\] LLM returned: {SKY}: You are a helpful assistant\. Why is the sky blue\?")
    for rollout_id in rollout_ids(algo):
        runner.wait_for_line(time + rf"\[Worker 0 \| Rollout {rollout_id}\] Completed in \d+\.\d\ds\. ")
        store.wait_for_line(rf'"GET /query_spans/{rollout_id} HTTP/1.1" 200')
    for request in ("POST /enqueue_rollout", "GET /dequeue_rollout", "POST /add_many_spans", "POST /update_attempt"):
        store.wait_for_line(rf'{time}"{request} HTTP/1.1" 200')
    store.wait_for_line(r'"POST /wait_for_rollouts HTTP/1.1" 200')


@pytest.mark.parametrize("order", list(itertools.permutations(["store", "runner", "algo"])), ids="-".join)
def test_any_order_of_starting_will_do(order: tuple[str, ...], stage: Stage) -> None:
    started: dict[str, Program] = {}
    for part in order:
        started[part] = getattr(stage, part)()
        waiting = "^Store at" if part == "store" else r"^\[Algo\] Updating" if part == "algo" else None
        waiting = waiting if "store" in started or waiting else "is away"
        if waiting:
            started[part].wait_for_line(waiting)

    assert started["algo"].wait() == 0
    finished(started["algo"])


@pytest.mark.parametrize("agentops", ["installed", "not installed"])
def test_the_agentops_tracer_sees_each_call_once_with_its_sdk_and_without(agentops: str, stage: Stage) -> None:
    if agentops == "not installed":
        stage.hide_agentops()
    elif find_spec("agentops") is None:
        pytest.skip("the extra [agentops] is not installed")
    stage.store()
    runner, algo = stage.runner(), stage.algo()

    assert algo.wait() == 0

    finished(algo)
    assert sum("Span(name='openai.chat.completion'" in line for line in algo.lines) == 3
    for word in ("Traceback", "[ERROR]", "Warning:"):
        assert word not in runner.output


async def test_a_second_run_after_a_restart_sees_the_first(stage: Stage) -> None:
    store = stage.store()
    stage.runner()
    first = stage.algo()
    assert first.wait() == 0
    store.send_signal(signal.SIGINT)
    assert store.wait() == 0

    stage.store()
    second = stage.algo()
    assert second.wait() == 0

    async with stage.client() as client:
        rollouts = await client.query_rollouts()
        assert [rollout.rollout_id for rollout in rollouts] == rollout_ids(first) + rollout_ids(second)
        assert {rollout.status for rollout in rollouts} == {"succeeded"}
        for rollout in rollouts:
            names = [span.name for span in await client.query_spans(rollout.rollout_id)]
            assert names[0] == "openai.chat.completion"
            assert len(names) >= 2


@pytest.mark.model
@pytest.mark.slow
def test_it_runs_on_the_local_model(tmp_path: Path) -> None:
    with serve_local_model(LocalModel(slots=1, context=192)) as base_url, Stage(tmp_path, base_url) as stage:
        stage.store()
        stage.runner()
        algo = stage.algo()

        assert algo.wait(timeout=250) == 0

    finished(algo)
    algo.wait_for_line(r"""Span\(name='openai.chat.completion', .*'gen_ai.completion.0.content': ["'].{10}""")


def test_the_example_plays_the_same_three_parts(stage: Stage) -> None:
    parts: list[Callable[[], Program]] = [lambda role=role: stage.example(role) for role in ("store", "runner", "algo")]
    store, runner, algo = (part() for part in parts)

    assert algo.wait() == 0

    algo.wait_for_line(r"^\[Algo\] ro-[0-9a-f]{12} is queued with the prompt '{any_question}'")
    algo.wait_for_line(r"^\[Algo\]   Span\(name='openai.chat.completion', attributes=")
    algo.wait_for_line(r"^\[Algo\] Best prompt: .* with reward 0\.\d")
    runner.wait_for_line(r"\[Worker 0 \| Rollout ro-[0-9a-f]{12}\] Completed in")
    store.wait_for_line(r'"POST /enqueue_rollout HTTP/1.1" 200')


def rollout_ids(algo: Program) -> list[str]:
    """The rollouts that an algorithm has enqueued, in order."""
    told = [line for line in algo.lines if line.endswith("is now available for clients.")]
    return [line.split("'")[1] for line in told]


def finished(algo: Program) -> list[tuple[str, float]]:
    """Check that the algorithm has come to its end; its prompts and rewards."""
    assert all(len(rollout_id) == 15 and int(rollout_id.removeprefix("ro-"), 16) for rollout_id in rollout_ids(algo))
    rewards = ast.literal_eval(algo.wait_for_line(r"^\[Algo\] All prompts and their rewards: (.*)")[1])
    assert [prompt for prompt, _ in rewards] == PROMPTS
    assert all(f"[Algo] Final reward: {reward}" in algo.lines and 0 <= reward <= 1 for _, reward in rewards)
    return rewards
