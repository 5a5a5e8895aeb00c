"""The tutorial as printed, with each of its programs in a process."""

from __future__ import annotations

import ast
import asyncio
import itertools
import signal
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.local_model import LocalModel, serve_local_model
from tests.acceptance.tutorial_programs import SKY, TutorialPrograms
from tests.processes import TIMEOUT, Program, free_port
from tests.runner.conftest import eventually
from tests.scripted_model import ScriptedModel

TUTORIAL: Any = import_module("tests.acceptance.tutorial")
PROMPTS = [
    "You are a helpful assistant. {any_question}",
    "You are a knowledgeable AI. {any_question}",
    "You are a friendly chatbot. {any_question}",
]


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[TutorialPrograms]:
    with (
        ScriptedModel(lambda question: f"{SKY}: {question}") as model,
        TutorialPrograms(tmp_path, model.base_url) as programs,
    ):
        yield programs


def test_programs_print_what_the_tutorial_shows(programs: TutorialPrograms) -> None:
    store, runner, algo = programs.store(), programs.runner(), programs.algo()

    assert algo.wait() == 0

    rewards = assert_finished(algo)
    assert [line.partition(" ")[0] for line in algo.lines if line and not line.startswith("  - ")] == ["[Algo]"] * 20
    for prompt in PROMPTS:
        assert f"[Algo] Updating prompt template to: '{prompt}'" in algo.lines
        question = prompt.replace("{any_question}", "Why is the sky blue?")[:-1]
        algo.wait_for_line(
            rf"^  - Span\(name='openai.chat.completion', attributes={{.*'gen_ai.prompt.0.content': '{question}\?'"
            rf".*'gen_ai.completion.0.content': '{SKY}: {question}\?'"
        )
    assert algo.output.count("[Algo] Received Result: ") == algo.output.count('"status":"succeeded"') / 2 == 3
    best = max(rewards, key=lambda item: item[1])
    assert algo.lines[-1] == f"[Algo] Best prompt found: '{best[0]}' with reward {best[1]}"

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
    assert_traced_once(runner, algo)


def test_programs_may_start_before_the_store(programs: TutorialPrograms) -> None:
    started: dict[str, Program] = {}
    for name, ready in {"runner": "is unreachable", "algo": r"^\[Algo\] Updating", "store": "^Store at"}.items():
        started[name] = getattr(programs, name)()
        started[name].wait_for_line(ready)

    assert started["algo"].wait() == 0
    assert_finished(started["algo"])


@pytest.mark.parametrize("order", list(itertools.permutations(["store", "runner", "algo"])), ids="-".join)
async def test_roles_may_start_in_any_order(
    order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = agl.LightningStoreServer(agl.InMemoryLightningStore(), port=free_port())
    clients = {role: agl.LightningStoreClient(server.endpoint) for role in ("runner", "algo")}

    async def run_agent() -> None:
        runner = agl.LitAgentRunner[str](agl.OtelTracer(), max_rollouts=1)
        with runner.run_context(agent=TUTORIAL.simple_agent, store=clients["runner"]):
            await runner.iter()

    tasks: list[asyncio.Task[None]] = []
    with ScriptedModel(SKY) as model:
        monkeypatch.setenv("OPENAI_BASE_URL", model.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        for role in order:
            if role == "store":
                await server.start()
                continue
            work = run_agent() if role == "runner" else TUTORIAL.find_best_prompt(clients["algo"], PROMPTS[:1], "Why?")
            tasks.append(asyncio.create_task(work))
            if "store" in order[order.index(role) :]:
                await eventually(lambda client=clients[role]: client.is_unreachable)
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*tasks)

    assert f"[Algo] Best prompt found: '{PROMPTS[0]}' with reward 0." in capsys.readouterr().out
    for client in clients.values():
        await client.close()
    await server.close()


def test_agentops_tracer_works_without_agentops(programs: TutorialPrograms) -> None:
    programs.hide_agentops()
    programs.store()
    runner, algo = programs.runner(), programs.algo()

    assert algo.wait() == 0

    assert_finished(algo)
    assert_traced_once(runner, algo)


async def test_second_run_after_a_restart_finds_the_first(programs: TutorialPrograms) -> None:
    store = programs.store()
    programs.runner()
    first = programs.algo()
    assert first.wait() == 0
    store.send_signal(signal.SIGINT)
    assert store.wait() == 0

    programs.store()
    second = programs.algo()
    assert second.wait() == 0

    async with programs.client() as client:
        rollouts = await client.query_rollouts()
        assert [rollout.rollout_id for rollout in rollouts] == rollout_ids(first) + rollout_ids(second)
        assert {rollout.status for rollout in rollouts} == {"succeeded"}
        for rollout in rollouts:
            names = [span.name for span in await client.query_spans(rollout.rollout_id)]
            assert names[0] == "openai.chat.completion"
            assert len(names) >= 2


@pytest.mark.model
@pytest.mark.long
def test_tutorial_runs_with_the_local_model(tmp_path: Path) -> None:
    with (
        serve_local_model(LocalModel(slots=1, context=192)) as base_url,
        TutorialPrograms(tmp_path, base_url) as programs,
    ):
        programs.store()
        programs.runner()
        algo = programs.algo()

        assert algo.wait(timeout=250) == 0

    assert_finished(algo)
    algo.wait_for_line(r"""Span\(name='openai.chat.completion', .*'gen_ai.completion.0.content': ["'].{10}""")


def test_example_has_the_same_three_roles(programs: TutorialPrograms) -> None:
    store, runner, algo = (programs.example(role) for role in ("store", "runner", "algo"))

    assert algo.wait() == 0

    algo.wait_for_line(r"^\[Algo\] ro-[0-9a-f]{12} is queued with the prompt '{any_question}'")
    algo.wait_for_line(r"^\[Algo\]   Span\(name='openai.chat.completion', attributes=")
    algo.wait_for_line(r"^\[Algo\] Best prompt: .* with reward 0\.\d")
    runner.wait_for_line(r"\[Worker 0 \| Rollout ro-[0-9a-f]{12}\] Completed in")
    store.wait_for_line(r'"POST /enqueue_rollout HTTP/1.1" 200')


def rollout_ids(algo: Program) -> list[str]:
    """Return the ids of the rollouts that an algorithm has enqueued, in order."""
    lines = [line for line in algo.lines if line.endswith("is now available for clients.")]
    return [line.split("'")[1] for line in lines]


def assert_finished(algo: Program) -> list[tuple[str, float]]:
    """Check that the algorithm has finished, and return its prompts and rewards."""
    assert all(len(rollout_id) == 15 and int(rollout_id.removeprefix("ro-"), 16) for rollout_id in rollout_ids(algo))
    rewards = ast.literal_eval(algo.wait_for_line(r"^\[Algo\] All prompts and their rewards: (.*)")[1])
    assert [prompt for prompt, _ in rewards] == PROMPTS
    assert all(f"[Algo] Final reward: {reward}" in algo.lines and 0 <= reward <= 1 for _, reward in rewards)
    return rewards


def assert_traced_once(runner: Program, algo: Program) -> None:
    """Check that the AgentOps tracer has recorded each call once, without a warning."""
    assert sum("Span(name='openai.chat.completion'" in line for line in algo.lines) == 3
    for word in ("Traceback", "[ERROR]", "Warning:"):
        assert word not in runner.output
