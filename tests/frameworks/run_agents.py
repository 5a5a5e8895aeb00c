"""Run the agents of an environment's pages, many rollouts at once, and check the recorded spans.

python -m tests.frameworks.run_agents ENVIRONMENT      # prints a line of JSON for each agent
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from typing import Any

from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore, LightningStore
from agentlightning.tracer import LightningTracer
from tests.frameworks import scripted_answers
from tests.frameworks.agents import ENVIRONMENTS, Page
from tests.frameworks.checks import Expected, problems
from tests.scripted_model import ScriptedModel


@dataclass
class Report:
    """The result of one agent."""

    page: str
    agent: str
    rollouts: int = 0
    calls: int = 0
    spans: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def main(environment: str) -> None:
    """Run all agents of an environment."""
    with ScriptedModel(lambda call: scripted_answers.answer(call, model.calls), takes_call=True) as model:
        os.environ.update(_variables(model))
        for page in ENVIRONMENTS[environment]:
            for report in _reports(page, model):
                print(json.dumps(asdict(report)), flush=True)


def _variables(model: ScriptedModel) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": model.base_url,
        "OPENAI_API_BASE": model.base_url,
        "OPENAI_API_KEY": "sk-test-0123456789",
        "ANTHROPIC_BASE_URL": model.url,
        "ANTHROPIC_API_KEY": "sk-ant-test-0123456789",
        # Telemetry and downloads, which have no network in a test.
        "CREWAI_DISABLE_TELEMETRY": "true",
        "CREWAI_TRACING_ENABLED": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def _reports(page: Page, model: ScriptedModel) -> list[Report]:
    try:
        agents = page.agents()
    except Exception:
        return [Report(page.name, "", problems=[traceback.format_exc()])]
    return [_report(page, name, agent, model.reset()) for name, agent in agents.items()]


def _report(page: Page, name: str, agent: Any, model: ScriptedModel) -> Report:
    report, started = Report(page.name, name, page.rollouts), time.monotonic()
    try:
        asyncio.run(_run(page, agent, model, report))
    except Exception:
        report.problems.append(traceback.format_exc())
    report.seconds = round(time.monotonic() - started, 2)
    return report


async def _run(page: Page, agent: Any, model: ScriptedModel, report: Report) -> None:
    async with InMemoryLightningStore() as store:
        ids = [await _enqueue(store, number) for number in range(page.rollouts)]
        runner = LitAgentRunner[Any](LightningTracer(), max_rollouts=page.rollouts, max_concurrency=page.rollouts)
        with runner.run_context(agent=agent, store=store):
            await runner.iter()
        rollouts = {rollout.rollout_id: rollout for rollout in await store.query_rollouts(rollout_ids=ids)}
        for number, rollout_id in enumerate(ids):
            spans = list(await store.query_spans(rollout_id))
            report.spans += len(spans)
            expected = Expected(
                page, scripted_answers.question(number), scripted_answers.solution(number), reward=_reward(number)
            )
            report.problems += problems(rollouts[rollout_id], spans, expected, model)
        report.calls = len(model.calls)
        if report.calls != page.rollouts * page.calls:
            report.problems.append(f"the model was called {report.calls} times, not {page.rollouts * page.calls}")


async def _enqueue(store: LightningStore, number: int) -> str:
    # Every other rollout expects a wrong answer, so that a reward of another rollout is detected.
    task = {
        "question": scripted_answers.question(number),
        "answer": scripted_answers.solution(number) if number % 2 else "another number",
    }
    return (await store.enqueue_rollout(task)).rollout_id


def _reward(number: int) -> float:
    return 1.0 if number % 2 else 0.0


if __name__ == "__main__":
    main(sys.argv[1])
