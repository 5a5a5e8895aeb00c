"""Four ways to debug an agent, from a single task to the whole training loop.

    python debugging.py alone      # one task through a runner, without an algorithm
    python debugging.py hook       # the same with a hook that prints every span
    python debugging.py dev        # the whole loop in this process, so that breakpoints work
    python debugging.py broken     # an agent that fails: find its error in the log and in the attempt

OPENAI_BASE_URL selects the model server.
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
    """Ask the model for a capital; the reward is 1 for the right one, else 0."""
    question = prompt_template.format(country=task["country"])
    answer = OpenAI().chat.completions.create(model=MODEL, messages=[{"role": "user", "content": question}])
    reply = answer.choices[0].message.content or ""
    agl.emit_message(f"The model answered {reply!r}; the right answer is {task['capital']!r}.")
    return float(task["capital"].lower() in reply.lower())


def broken(task: dict[str, str], prompt_template: agl.PromptTemplate) -> float:
    """Call `capital` with a typo in a key."""
    return capital({"country": task["contry"]}, prompt_template)


class PrintSpans(agl.Hook):
    """Print the spans of every rollout."""

    async def on_rollout_end(self, *, agent, runner, rollout: agl.AttemptedRollout, spans: Sequence[agl.Span]) -> None:
        for span in spans:
            print(f"[Hook] {span}")


async def run_alone(hooks: list[agl.Hook]) -> None:
    """Run one task without the queue, in a temporary store."""
    runner = agl.LitAgentRunner[dict](agl.LightningTracer())
    async with agl.InMemoryLightningStore() as store:
        with runner.run_context(agent=capital, store=store, hooks=hooks):
            rollout = await runner.step(TASKS[0], resources={"prompt_template": PROMPT})
        print(f"[Alone] {rollout.status}, reward {rollout.reward}")


def run_dev(agent: object) -> None:
    """Run every task once, with one runner in a thread of this process."""
    trainer = agl.Trainer(algorithm=agl.Baseline(), initial_resources={"prompt_template": PROMPT})
    result = trainer.dev(agent, TASKS)
    print(f"[Dev] {result.counts}, mean reward {result.mean_reward}; the log is {result.folder}/log.txt")


@click.command()
@click.argument("mode", type=click.Choice(["alone", "hook", "dev", "broken"]))
def main(mode: str) -> None:
    """Debug an agent in one of four ways."""
    match mode:
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
