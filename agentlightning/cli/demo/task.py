"""The demo's task, agent and algorithm: sort words into animals and fruit, with the best of five prompts.

`python -m agentlightning.cli.demo.task STORE_URL` runs the demo's runner.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from ...errors import MissingExtra
from ...types import AttemptedRollout, EnqueueRolloutRequest, PromptTemplate

if TYPE_CHECKING:
    from openai import OpenAI

    from ...store import LightningStore

ANIMALS = ["cat", "horse", "tiger", "rabbit", "eagle", "goat", "wolf", "monkey", "sheep", "dolphin", "bear", "camel"]
FRUIT = ["apple", "banana", "cherry", "grape", "mango", "orange", "peach", "pear", "plum", "lemon", "papaya", "apricot"]
TASKS = [
    {"word": word, "label": label}
    for pair in zip(ANIMALS, FRUIT, strict=True)
    for word, label in zip(pair, ("animal", "fruit"), strict=True)
]

PROMPTS = {
    "just ask": "Is {word} an animal or a fruit?",
    "say how to answer": """\
System: Answer with one word: animal or fruit.
User: {word}""",
    "six examples in one message": """\
Answer with one word, animal or fruit.

Q: dog
A: animal

Q: kiwi
A: fruit

Q: cow
A: animal

Q: melon
A: fruit

Q: lion
A: animal

Q: fig
A: fruit

Q: {word}
A:""",
    "two examples as a chat": """\
User: dog
Assistant: animal
User: kiwi
Assistant: fruit
User: {word}""",
    "four examples as a chat": """\
User: dog
Assistant: animal
User: kiwi
Assistant: fruit
User: cow
Assistant: animal
User: melon
Assistant: fruit
User: {word}""",
}
"""Prompts by display name. A line that starts with `System:`, `User:` or `Assistant:` starts a message of that role."""

MAX_TOKENS: Final = 6
_ROLE = re.compile(r"^(System|User|Assistant): ", re.MULTILINE)


@dataclass(frozen=True)
class RolloutOutcome:
    """The reward of one rollout, or the reason for its absence."""

    reward: float | None
    problem: str | None = None


@dataclass(frozen=True)
class PromptResult:
    """A prompt with the outcomes of its rollouts."""

    name: str
    prompt: str
    outcomes: list[RolloutOutcome]

    @property
    def mean(self) -> float:
        """The mean reward; a rollout without one counts as 0."""
        return sum(outcome.reward or 0.0 for outcome in self.outcomes) / len(self.outcomes)


async def evaluate_prompts(
    store: LightningStore, prompts: Mapping[str, str], tasks: Sequence[Any], on_rollout_end: Callable[[str], None]
) -> AsyncGenerator[PromptResult]:
    """Enqueue all rollouts, then yield the result of each prompt as soon as it is complete."""
    queued = {name: await _enqueue(store, prompt, tasks) for name, prompt in prompts.items()}
    for name, rollout_ids in queued.items():
        outcomes: list[RolloutOutcome] = []
        for outcome in asyncio.as_completed([_outcome(store, rollout_id) for rollout_id in rollout_ids]):
            outcomes.append(await outcome)
            on_rollout_end(name)
        yield PromptResult(name, prompts[name], outcomes)


async def _enqueue(store: LightningStore, prompt: str, tasks: Sequence[Any]) -> list[str]:
    resources = await store.add_resources({"prompt_template": PromptTemplate(template=prompt)})
    rollouts = await store.enqueue_many_rollouts(
        [EnqueueRolloutRequest(input=task, resources_id=resources.resources_id) for task in tasks]
    )
    return [rollout.rollout_id for rollout in rollouts]


async def _outcome(store: LightningStore, rollout_id: str) -> RolloutOutcome:
    (rollout,) = await store.wait_for_rollouts([rollout_id])
    if rollout.reward is not None:
        return RolloutOutcome(rollout.reward)
    reason = (rollout.attempt.metadata or {}).get("reason") if isinstance(rollout, AttemptedRollout) else None
    return RolloutOutcome(None, problem=f"{rollout_id} {rollout.status}: {reason or 'no reward'}")


def sort_word(task: dict[str, str], prompt_template: PromptTemplate) -> float:
    """Ask the model for the category of a word; the reward is 1.0 if the answer equals the label."""
    completion = _client().chat.completions.create(
        model="local",
        messages=parse_messages(prompt_template.format(word=task["word"])),
        temperature=0,
        max_tokens=MAX_TOKENS,
    )
    answer = completion.choices[0].message.content
    print(f"{task['word']}: {answer!r}", flush=True)
    return 1.0 if answer == task["label"] else 0.0


def parse_messages(prompt: str) -> list[Any]:
    """Split the prompt into chat messages; a prompt without roles becomes one user message."""
    first, *turns = _ROLE.split(prompt)
    if first:
        return [{"role": "user", "content": prompt}]
    return [{"role": role.lower(), "content": text.strip()} for role, text in zip(turns[::2], turns[1::2], strict=True)]


@cache
def _client() -> OpenAI:
    try:
        from openai import OpenAI
    except ImportError:
        raise MissingExtra("openai", wanted_for="the demo's agent") from None
    return OpenAI()


async def _run_runner(store_url: str) -> None:
    from ...runner import LitAgentRunner
    from ...store import LightningStoreClient
    from ...tracer import LightningTracer

    runner = LitAgentRunner[dict[str, str]](tracer=LightningTracer(), max_concurrency=4)
    with runner.run_context(agent=sort_word, store=LightningStoreClient(store_url)):
        await runner.iter()


if __name__ == "__main__":
    from ...logs import setup_logging

    setup_logging()
    asyncio.run(_run_runner(sys.argv[1]))
