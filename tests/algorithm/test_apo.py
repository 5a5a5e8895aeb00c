"""APO on a store in this process: what becomes a candidate, what counts, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning.algorithm.comparison import estimate, paired_difference, t_quantile
from agentlightning.algorithm.apo.rewriting import missing_placeholders
from agentlightning.trainer import RunResult
from tests.scripted_model import Answer, Call, ScriptedModel

TASKS = [{"n": n} for n in range(8)]
QUICK = {"beam_width": 2, "branch_factor": 2, "beam_rounds": 1, "validation_repeats": 1, "val_batch_size": 4}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def loud(task: dict[str, int], prompt_template: agl.PromptTemplate) -> float:
    agl.emit_message(f"task {task['n']} wants more noise")
    return 1.0 if "!" in prompt_template.format(n=task["n"]) else 0.0


def optimise(agent: Any, answer: Any, prompt: Any = "Say {n}", **options: Any) -> tuple[RunResult, agl.APO, list[Call]]:
    with ScriptedModel(answer, takes_call=True) as model:
        client = AsyncOpenAI(base_url=model.base_url, api_key="x", max_retries=0)
        apo = agl.APO(client, **QUICK | options)
        trainer = agl.Trainer(
            algorithm=apo,
            initial_resources={"prompt": prompt, "other": "kept"},
            strategy="shm",
            n_runners=2,
            tracer=agl.OtelTracer(),
            progress=False,
        )
        return trainer.fit(agent, TASKS), apo, model.calls


def writer(*prompts: str):
    """The critic always says the same; the editor gives these prompts in turn."""
    left = list(prompts)

    def answer(call: Call) -> str:
        if call.body["model"] == "gpt-5-mini":
            return "It is too quiet."
        return f"Of course.\n<prompt>\n{left.pop(0)}\n</prompt>"

    return answer


def test_a_better_prompt_is_found_shown_and_kept():
    result, apo, calls = optimise(loud, writer("Shout {n}!", "Whisper {n}"), resource_name="prompt")

    assert apo.get_best_prompt() == agl.PromptTemplate(template="Shout {n}!")
    assert result.report["improvement_shown"]
    assert result.report["summary"].startswith("Improvement shown: seed 0.000 ± 0.000 (n=8), best 1.000")
    assert result.best_resources_id == "apo/best"
    assert result.best_resources["other"].template == "kept"
    asked = next(call.question for call in calls if call.body["model"] == "gpt-5-mini")
    assert "<prompt>\nSay {n}\n</prompt>" in asked
    assert "Note: task " in asked
    assert 'reward="0.0"' in asked


def test_a_client_serves_one_run_after_another():
    with ScriptedModel(lambda question: "<prompt>Shout {n}!</prompt>") as model:
        apo = agl.APO(AsyncOpenAI(base_url=model.base_url, api_key="x", max_retries=0), **QUICK)
        trainer = agl.Trainer(
            algorithm=apo, initial_resources={"prompt": "Say {n}"}, strategy="shm", tracer=agl.OtelTracer
        )
        summaries = [trainer.fit(loud, TASKS).report["summary"] for _ in range(2)]

    assert summaries[0].startswith("Improvement shown")
    assert summaries[1] == summaries[0]


async def test_every_candidate_is_in_the_store_with_parent_critique_and_scores(tmp_path: Path):
    import asyncio

    result, _, _ = await asyncio.to_thread(optimise, loud, writer("Shout {n}!", "Whisper {n}"), resource_name="prompt")

    async with agl.open_store(str(result.folder / "agl.db")) as store:
        kept = [await store.get_resources_by_id(f"apo/{name}") for name in ("r1c0", "r1c1")]
        about = {each.resources["prompt"].template: each.resources["apo"].value for each in kept}
    assert set(about) == {"Shout {n}!", "Whisper {n}"}
    shout = about["Shout {n}!"]
    assert (shout["parent"], shout["critique"], shout["mean"]) == ("apo/seed", "It is too quiet.", 1.0)
    assert len(shout["scores"]) >= 4


def test_a_candidate_that_lost_a_placeholder_is_never_evaluated():
    seen: list[str] = []

    def agent(task: dict[str, int], prompt_template: agl.PromptTemplate) -> float:
        seen.append(prompt_template.template)
        return 0.5

    result, apo, _ = optimise(agent, writer("Shout!", "Say {n} {m}"), resource_name="prompt")

    assert "Shout!" not in seen
    assert list(result.report["rejected"].values()) == ["it has lost {n}"]
    assert apo.get_best_prompt().template == "Say {n}"
    assert result.report["summary"].startswith("No improvement shown")


def test_failures_count_as_failures_and_missing_rewards_as_nothing():
    def agent(task: dict[str, int], prompt_template: agl.PromptTemplate) -> float | None:
        if task["n"] == 0:
            raise RuntimeError("no luck")
        return None if task["n"] == 1 else 1.0

    result, _, _ = optimise(agent, writer("Say {n}.", "Say {n}?"), resource_name="prompt", branch_factor=1)

    assert result.report["seed"]["n"] == 7
    assert result.report["seed"]["mean"] == pytest.approx(6 / 7)
    assert {"failed", "without reward", "succeeded"} == set(result.report["rollouts"])


def test_models_that_cannot_be_asked_end_the_run():
    with pytest.raises(Exception, match=r"401|script says so"):
        optimise(loud, lambda call: Answer(status=401), resource_name="prompt")


def test_it_says_which_prompt_it_needs():
    with pytest.raises(ValueError, match="there is prompt, other: give Trainer"):
        optimise(loud, writer())


@pytest.mark.parametrize(
    ("seed", "text", "lost"),
    [
        (agl.PromptTemplate(template="{a} {b}"), "{b} and {a}", []),
        (agl.PromptTemplate(template="{a} {b}"), "{b}", ["{a}"]),
        (agl.PromptTemplate(template='{"json": 1} {a}'), "{a}", []),
        (agl.PromptTemplate(template="{{ a }} {{b}}", engine="jinja"), "{{b}}", ["{{a}}"]),
    ],
)
def test_missing_placeholders_are_noticed(seed: agl.PromptTemplate, text: str, lost: list[str]):
    assert missing_placeholders(seed, text) == lost


def test_a_difference_is_taken_task_by_task():
    difference = paired_difference([1.0, 1.0, 0.0, 1.0, 1.0, None], [0.0, 1.0, 0.0, 0.0, 0.0, 1.0])

    assert difference.n == 5
    assert difference.mean == pytest.approx(0.6)
    assert difference.low == pytest.approx(-0.080, abs=0.002)
    assert not difference.is_improvement


def test_few_tasks_show_nothing():
    assert not paired_difference([1.0] * 4, [0.0] * 4).is_improvement
    assert estimate([None, None]).mean is None


@pytest.mark.parametrize(("freedom", "quantile"), [(4, 2.776), (10, 2.228), (30, 2.042), (1000, 1.962)])
def test_students_t_is_right(freedom: int, quantile: float):
    assert t_quantile(0.975, freedom) == pytest.approx(quantile, rel=0.004)
