"""APO on a store in this process: candidates, scores, and stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning.algorithm.apo.rewriting import missing_placeholders
from agentlightning.algorithm.comparison import estimate, paired_difference, t_quantile
from agentlightning.trainer import RunResult
from tests.scripted_model import Answer, Call, ScriptedModel

TASKS = [{"n": n} for n in range(8)]
QUICK: dict[str, Any] = {
    "beam_width": 2,
    "branch_factor": 2,
    "beam_rounds": 1,
    "validation_repeats": 1,
    "val_batch_size": 4,
}


@pytest.fixture(autouse=True)
def change_to_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def loud(task: dict[str, int], prompt_template: agl.PromptTemplate) -> float:
    agl.emit_message(f"task {task['n']} needs an exclamation mark")
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


def write(*prompts: str):
    """Answer as the critic with a constant critique, and as the editor with these prompts in turn."""
    remaining = list(prompts)

    def answer(call: Call) -> str:
        if call.body["model"] == "gpt-5-mini":
            return "It is too quiet."
        return f"Of course.\n<prompt>\n{remaining.pop(0)}\n</prompt>"

    return answer


def test_better_prompt_is_found_and_stored():
    result, apo, calls = optimise(loud, write("Shout {n}!", "Whisper {n}"), resource_name="prompt")

    assert apo.get_best_prompt() == agl.PromptTemplate(template="Shout {n}!")
    assert result.report["improvement_shown"]
    assert result.report["summary"].startswith("Improvement shown: seed 0.000 ± 0.000 (n=8), best 1.000")
    assert result.best_resources_id == "apo/best"
    best: Any = result.best_resources
    assert best["other"].template == "kept"
    critic_prompt = next(call.question for call in calls if call.body["model"] == "gpt-5-mini")
    assert "<prompt>\nSay {n}\n</prompt>" in critic_prompt
    assert "Note: task " in critic_prompt
    assert 'reward="0.0"' in critic_prompt


def test_one_client_serves_consecutive_runs():
    with ScriptedModel(lambda question: "<prompt>Shout {n}!</prompt>") as model:
        apo = agl.APO(AsyncOpenAI(base_url=model.base_url, api_key="x", max_retries=0), **QUICK)
        trainer = agl.Trainer(
            algorithm=apo, initial_resources={"prompt": "Say {n}"}, strategy="shm", tracer=agl.OtelTracer
        )
        summaries = [trainer.fit(loud, TASKS).report["summary"] for _ in range(2)]

    assert summaries[0].startswith("Improvement shown")
    assert summaries[1] == summaries[0]


async def test_candidates_are_stored_with_parent_critique_and_scores(tmp_path: Path):
    import asyncio

    result, _, _ = await asyncio.to_thread(optimise, loud, write("Shout {n}!", "Whisper {n}"), resource_name="prompt")

    async with agl.open_store(str(result.folder / "agl.db")) as store:
        versions = [await store.get_resources_by_id(f"apo/{name}") for name in ("r1c0", "r1c1")]
        resources: list[Any] = [each.resources for each in versions]
        details = {each["prompt"].template: each["apo"].value for each in resources}
    assert set(details) == {"Shout {n}!", "Whisper {n}"}
    shout = details["Shout {n}!"]
    assert (shout["parent"], shout["critique"], shout["mean"]) == ("apo/seed", "It is too quiet.", 1.0)
    assert len(shout["scores"]) >= 4


def test_candidate_without_required_placeholder_is_not_evaluated():
    evaluated: list[str] = []

    def agent(task: dict[str, int], prompt_template: agl.PromptTemplate) -> float:
        evaluated.append(prompt_template.template)
        return 0.5

    result, apo, _ = optimise(agent, write("Shout!", "Say {n} {m}"), resource_name="prompt")

    assert "Shout!" not in evaluated
    assert list(result.report["rejected"].values()) == ["the prompt lacks {n}"]
    assert apo.get_best_prompt().template == "Say {n}"
    assert result.report["summary"].startswith("No improvement shown")


def test_failed_rollout_scores_zero_and_missing_reward_is_ignored():
    def agent(task: dict[str, int], prompt_template: agl.PromptTemplate) -> float | None:
        if task["n"] == 0:
            raise RuntimeError("no luck")
        return None if task["n"] == 1 else 1.0

    result, _, _ = optimise(agent, write("Say {n}.", "Say {n}?"), resource_name="prompt", branch_factor=1)

    assert result.report["seed"]["n"] == 7
    assert result.report["seed"]["mean"] == pytest.approx(6 / 7)
    assert {"failed", "without reward", "succeeded"} == set(result.report["rollouts"])


def test_unreachable_critic_ends_run():
    with pytest.raises(Exception, match=r"401|script says so"):
        optimise(loud, lambda call: Answer(status=401), resource_name="prompt")


def test_ambiguous_prompt_is_rejected():
    with pytest.raises(ValueError, match="which contain prompt, other: pass Trainer"):
        optimise(loud, write())


@pytest.mark.parametrize(
    ("seed", "text", "missing"),
    [
        (agl.PromptTemplate(template="{a} {b}"), "{b} and {a}", []),
        (agl.PromptTemplate(template="{a} {b}"), "{b}", ["{a}"]),
        (agl.PromptTemplate(template='{"json": 1} {a}'), "{a}", []),
        (agl.PromptTemplate(template="{{ a }} {{b}}", engine="jinja"), "{{b}}", ["{{a}}"]),
    ],
)
def test_missing_placeholders_are_listed(seed: agl.PromptTemplate, text: str, missing: list[str]):
    assert missing_placeholders(seed, text) == missing


def test_difference_pairs_scores_by_task():
    difference = paired_difference([1.0, 1.0, 0.0, 1.0, 1.0, None], [0.0, 1.0, 0.0, 0.0, 0.0, 1.0])

    assert difference.n == 5
    assert difference.mean == pytest.approx(0.6)
    assert difference.low == pytest.approx(-0.080, abs=0.002)
    assert not difference.is_improvement


def test_four_tasks_are_too_few_for_an_improvement():
    assert not paired_difference([1.0] * 4, [0.0] * 4).is_improvement
    assert estimate([None, None]).mean is None


@pytest.mark.parametrize(("degrees_of_freedom", "quantile"), [(4, 2.776), (10, 2.228), (30, 2.042), (1000, 1.962)])
def test_t_quantile_matches_published_values(degrees_of_freedom: int, quantile: float):
    assert t_quantile(0.975, degrees_of_freedom) == pytest.approx(quantile, rel=0.004)
