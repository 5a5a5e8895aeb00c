"""The demo's tasks, agent and algorithm. They find the best of five prompts that sort words into animals and fruit."""

from __future__ import annotations

import logging
import os
import re
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from ...algorithm import algo
from ...algorithm.base import RETRY_LOST_RUNNERS
from ...store import LightningStore
from ...types import LLM, Dataset, EnqueueRolloutRequest, NamedResources, PromptTemplate

if TYPE_CHECKING:
    from openai import OpenAI

logger = logging.getLogger(__name__)

ANIMALS = ["cat", "horse", "tiger", "rabbit", "eagle", "goat", "wolf", "monkey", "sheep", "dolphin", "bear", "camel"]
FRUIT = ["apple", "banana", "cherry", "grape", "mango", "orange", "peach", "pear", "plum", "lemon", "papaya", "apricot"]
TASKS = [
    {"word": word, "label": label}
    for pair in zip(ANIMALS, FRUIT, strict=True)
    for word, label in zip(pair, ("animal", "fruit"), strict=True)
]

EXAMPLES = {"dog": "animal", "kiwi": "fruit", "cow": "animal", "melon": "fruit", "lion": "animal", "fig": "fruit"}
_CHAT = [f"User: {word}\nAssistant: {label}\n" for word, label in EXAMPLES.items()]
_QUESTIONS = [f"Q: {word}\nA: {label}\n\n" for word, label in EXAMPLES.items()]
PROMPTS = {
    "just ask": "Is {word} an animal or a fruit?",
    "say how to answer": "System: Answer with one word: animal or fruit.\nUser: {word}",
    "six examples in one message": "".join(
        ["Answer with one word, animal or fruit.\n\n", *_QUESTIONS, "Q: {word}\nA:"]
    ),
    "two examples as a chat": "".join([*_CHAT[:2], "User: {word}"]),
    "four examples as a chat": "".join([*_CHAT[:4], "User: {word}"]),
}
"""Prompts by display name. A line starting with `System:`, `User:` or `Assistant:` begins a message with that role."""

MAX_TOKENS: Final = 6
_ROLE = re.compile(r"^(System|User|Assistant): ", re.MULTILINE)


@algo
async def compare_prompts(
    store: LightningStore, initial_resources: NamedResources, train_dataset: Dataset[Any]
) -> dict[str, list[float]]:
    """Return the rewards for each prompt, and print the mean reward for each prompt when its rollouts have finished.

    A rollout without a reward counts as 0. The rollouts for all prompts are enqueued at the start, so that the runner
    does not become idle between two prompts.
    """
    queued = {name: await _enqueue(store, initial_resources, prompt, train_dataset) for name, prompt in PROMPTS.items()}
    rewards: dict[str, list[float]] = {}
    for name, rollout_ids in queued.items():
        finished = await store.wait_for_rollouts(rollout_ids)
        rewards[name] = [rollout.reward or 0.0 for rollout in finished]
        print(f"  {name:<28} mean reward {fmean(rewards[name]):.2f}  {len(finished)} words", flush=True)
    return rewards


async def _enqueue(store: LightningStore, resources: NamedResources, prompt: str, tasks: Dataset[Any]) -> list[str]:
    update = await store.add_resources({**resources, "prompt_template": PromptTemplate(template=prompt)})
    requests = [
        EnqueueRolloutRequest(input=tasks[n], resources_id=update.resources_id, config=RETRY_LOST_RUNNERS)
        for n in range(len(tasks))
    ]
    return [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(requests)]


def sort_word(task: dict[str, str], prompt_template: PromptTemplate, llm: LLM) -> float:
    """Ask the model to classify the task's word, and return the reward: 1.0 if the answer is correct, otherwise 0.0."""
    completion = _client(llm.endpoint).chat.completions.create(
        model=llm.model,
        messages=parse_messages(prompt_template.format(word=task["word"])),
        temperature=0,
        max_tokens=MAX_TOKENS,
    )
    answer = completion.choices[0].message.content
    logger.info("%s: %r", task["word"], answer)
    return 1.0 if answer == task["label"] else 0.0


def parse_messages(prompt: str) -> list[Any]:
    """Split the prompt into chat messages. A prompt that does not start with a role becomes a single user message."""
    first, *turns = _ROLE.split(prompt)
    if first:
        return [{"role": "user", "content": prompt}]
    return [{"role": role.lower(), "content": text.strip()} for role, text in zip(turns[::2], turns[1::2], strict=True)]


@cache
def _client(base_url: str) -> OpenAI:
    from openai import OpenAI

    return OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
