"""Find out which of three prompts gets the best answer, with store, runner and algorithm in three processes.

    python first_algorithm.py store       # or: agl store
    python first_algorithm.py runner
    python first_algorithm.py algo

The algorithm tries one prompt after another. It adds the prompt to the store as a resource, enqueues a task, waits for
a runner to execute it, and reads the reward from its spans. The agent asks a model and scores the answer.
"""

import asyncio
import os
from urllib.parse import urlsplit

import click
from openai import OpenAI

import agentlightning as agl
from agentlightning.cli import main as agl_command

STORE_URL = os.environ.get("AGL_STORE_URL", "http://localhost:4747")
MODEL = os.environ.get("OPENAI_MODEL", "gpt-4.1-nano")

TASK = "Why is the sky blue?"
PROMPTS = [
    "{any_question}",
    "Answer in one short sentence, as to a small child. {any_question}",
    "You are a physics teacher. Name the effect behind it, and say what happens to the light. {any_question}",
]
KEY_POINTS = ["scatter", "rayleigh", "wavelength", "sunlight", "atmosphere"]


async def find_best_prompt(store: agl.LightningStore, prompts: list[str], task: str) -> str:
    """Run `task` once with each prompt, and return the prompt with the highest reward."""
    rewards: dict[str, float] = {}
    for prompt in prompts:
        resources = await store.add_resources({"prompt_template": agl.PromptTemplate(template=prompt)})
        rollout = await store.enqueue_rollout(input=task, resources_id=resources.resources_id)
        print(f"[Algo] {rollout.rollout_id} is queued with the prompt {prompt!r}")

        (finished,) = await store.wait_for_rollouts([rollout.rollout_id])
        spans = await store.query_spans(rollout.rollout_id)
        for span in spans:
            print(f"[Algo]   {span}")
        reward = agl.find_final_reward(spans)
        print(f"[Algo] {finished.rollout_id} {finished.status}, reward {reward}")
        rewards[prompt] = -1.0 if reward is None else reward

    best = max(rewards, key=lambda prompt: rewards[prompt])
    print(f"[Algo] Best prompt: {best!r} with reward {rewards[best]}")
    return best


def explain(task: str, prompt_template: agl.PromptTemplate) -> float:
    """Ask the model, and return the fraction of key points that its answer mentions."""
    answer = OpenAI().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt_template.format(any_question=task)}],
        temperature=0,
        max_tokens=200,
    )
    text = answer.choices[0].message.content or ""
    print(f"[Rollout] The model answered: {text}")
    return sum(point in text.lower() for point in KEY_POINTS) / len(KEY_POINTS)


async def run_runner() -> None:
    """Execute tasks until Ctrl-C."""
    runner = agl.LitAgentRunner[str](tracer=agl.LightningTracer())
    with runner.run_context(agent=explain, store=agl.LightningStoreClient(STORE_URL)):
        await runner.iter()


async def run_algorithm() -> None:
    """Find the best prompt."""
    async with agl.LightningStoreClient(STORE_URL) as store:
        await find_best_prompt(store, PROMPTS, TASK)


@click.command()
@click.argument("role", type=click.Choice(["store", "runner", "algo"]))
def main(role: str) -> None:
    """Run one of the three roles. Start each in its own terminal, in any order."""
    match role:
        case "store":
            agl_command(["store", "--port", str(urlsplit(STORE_URL).port)])
        case "runner":
            agl.setup_logging()
            asyncio.run(run_runner())
        case _:
            asyncio.run(run_algorithm())


if __name__ == "__main__":
    main()
