"""Four ways to look at an agent, from the barest to the whole loop.

    python debugging.py alone      # one task through a runner, no algorithm
    python debugging.py hook       # the same, with a hook that prints every span
    python debugging.py dev        # the whole loop in this process, where a breakpoint works
    python debugging.py broken     # an agent that fails: where its error is to be read

The model is the service that OPENAI_BASE_URL names.
"""

import asyncio
import os
from collections.abc import Sequence

import click
from openai import OpenAI

import agentlightning as agl

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4.1-nano")
PROMPT = agl.PromptTemplate(template="Answer with one word. What is the capital of {country}?")
TASKS = [{"country": "France", "capital": "Paris"}, {"country": "Japan", "capital": "Tokyo"}]


def capital(task: dict[str, str], prompt_template: agl.PromptTemplate) -> float:
    """Ask the model for a capital; 1 when it is the right one."""
    question = prompt_template.format(country=task["country"])
    answer = OpenAI().chat.completions.create(model=MODEL, messages=[{"role": "user", "content": question}])
    said = answer.choices[0].message.content or ""
    agl.emit_message(f"The model said {said!r}, and {task['capital']} was right.")
    return float(task["capital"].lower() in said.lower())


def broken(task: dict[str, str], prompt_template: agl.PromptTemplate) -> float:
    """The same with a typo."""
    return capital({"country": task["contry"]}, prompt_template)


class PrintSpans(agl.Hook):
    """Prints what every rollout has left behind."""

    async def on_rollout_end(self, *, agent, runner, rollout: agl.AttemptedRollout, spans: Sequence[agl.Span]) -> None:
        for span in spans:
            print(f"[Hook] {span}")


async def run_alone(hooks: list[agl.Hook]) -> None:
    """One task, past the queue, with a store that is gone afterwards."""
    runner = agl.LitAgentRunner[dict](agl.LightningTracer())
    async with agl.InMemoryLightningStore() as store:
        with runner.run_context(agent=capital, store=store, hooks=hooks):
            rollout = await runner.step(TASKS[0], resources={"prompt_template": PROMPT})
        print(f"[Alone] {rollout.status}, reward {rollout.reward}")


def run_dev(agent: object) -> None:
    """Every task once, with one runner in a thread of this process."""
    trainer = agl.Trainer(algorithm=agl.Baseline(), initial_resources={"prompt_template": PROMPT})
    result = trainer.dev(agent, TASKS)
    print(f"[Dev] {result.counts}, mean reward {result.mean_reward}; the log is {result.folder}/log.txt")


@click.command()
@click.argument("way", type=click.Choice(["alone", "hook", "dev", "broken"]))
def main(way: str) -> None:
    """Look at an agent in one of four ways."""
    match way:
        case "alone":
            asyncio.run(run_alone([]))
        case "hook":
            asyncio.run(run_alone([PrintSpans()]))
        case "dev":
            run_dev(capital)
        case _:
            agl.setup_logging()
            run_dev(broken)


if __name__ == "__main__":
    main()
