"""The demo's task: words to sort into animals and fruit, five prompts for it, and the agent that sorts.

`python -m agentlightning.cli.demo.task STORE_URL` is the demo's runner.
"""

from __future__ import annotations

import asyncio
import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from ...errors import MissingExtra
from ...types import PromptTemplate

if TYPE_CHECKING:
    from openai import OpenAI

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
"""By a name to show. A line that begins with `System:`, `User:` or `Assistant:` begins a message of that role."""

_ROLE = re.compile(r"^(System|User|Assistant): ", re.MULTILINE)
_ENOUGH_TOKENS = 6


def sort_word(task: dict[str, str], prompt_template: PromptTemplate) -> float:
    """Ask the model what the word is; 1.0 if its answer is the label, to the letter, else 0.0."""
    answer = _client().chat.completions.create(
        model="local",
        messages=messages(prompt_template.format(word=task["word"])),
        temperature=0,
        max_tokens=_ENOUGH_TOKENS,
    )
    said = answer.choices[0].message.content
    print(f"{task['word']}: {said!r}", flush=True)
    return 1.0 if said == task["label"] else 0.0


def messages(prompt: str) -> list[Any]:
    """The prompt as a chat; one that names no roles is one message of the user."""
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


async def _run(store_url: str) -> None:
    from ...runner import LitAgentRunner
    from ...store import LightningStoreClient
    from ...tracer import LightningTracer

    runner = LitAgentRunner[dict[str, str]](tracer=LightningTracer(), max_concurrency=4)
    with runner.run_context(agent=sort_word, store=LightningStoreClient(store_url)):
        await runner.iter()


if __name__ == "__main__":
    from ...logs import setup_logging

    setup_logging()
    asyncio.run(_run(sys.argv[1]))
