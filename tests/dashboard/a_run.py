"""A real run to look at: an agent with a tool and a model, two prompts, tasks that fail and one that is hostile."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning.types import EnqueueRolloutRequest, RolloutConfig
from tests.scripted_model import Answer, Call, ScriptedModel

PROMPTS = {
    "first": "Is {word} an animal or a fruit?",
    "second": "You know every animal and every fruit.\nAnswer with one word: is {word} an animal or a fruit?",
}
WORDS = ["cat", "kiwi", "wolf", "plum", "bear", "fig", "goat", "pear", "lion", "lime"]
ANIMALS = {"cat", "wolf", "bear", "goat", "lion"}

SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
ANSI = "\x1b[31mred\x1b[0m"
BACKWARDS = "\u202egnp.exe"
HOSTILE = f"{SCRIPT} {ANSI} {BACKWARDS}"
LARGE = "large " * 180_000
"""A payload of a megabyte."""

PAID = {"usage": {"prompt_tokens": 40, "completion_tokens": 3, "total_tokens": 43, "cost": 0.0002}}
"""What every call takes, as a service tells it that has a price."""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "What a word means.",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
        },
    }
]


def model() -> ScriptedModel:
    """Asks for the tool first, and answers then; under the second prompt it is always right."""

    def answer(call: Call) -> Answer:
        said = call.body["messages"]
        if said[-1]["role"] != "tool":
            return Answer(tool_calls=[("look_up", {"word": said[-1]["content"].split()[-6]})], extra=PAID)
        question = said[0]["content"]
        word = next(word for word in WORDS if f" {word} " in question)
        right = "animal" if word in ANIMALS else "fruit"
        return Answer(right if "You know" in question else "animal", logprobs=True, extra=PAID)

    return ScriptedModel(answer, takes_call=True)


class Sorter:
    """The agent."""

    def __init__(self, base_url: str) -> None:
        self._client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)

    async def close(self) -> None:
        await self._client.close()

    async def sort(self, task: Any, prompt: agl.PromptTemplate) -> float:
        """1.0 when the model knows what the word is."""
        if task.get("hostile"):
            return self._be_hostile()
        if task["word"] == "lime":
            raise ValueError(f"no label for {task['word']!r}")
        messages: list[Any] = [{"role": "user", "content": prompt.format(word=task["word"])}]
        asked = (await self._ask(messages)).choices[0].message
        messages += [asked, self._used(asked.tool_calls[0], task["word"])]
        said = (await self._ask(messages)).choices[0].message.content
        return 1.0 if said == ("animal" if task["word"] in ANIMALS else "fruit") else 0.0

    async def _ask(self, messages: list[Any]) -> Any:
        return await self._client.chat.completions.create(model="scripted", messages=messages, tools=TOOLS)  # type: ignore[arg-type]

    def _used(self, call: Any, word: str) -> dict[str, Any]:
        with agl.operation(name="look_up") as step:
            step.set_input(word=word)
            step.set_output("something alive")
        return {"role": "tool", "tool_call_id": call.id, "content": "something alive"}

    def _be_hostile(self) -> float:
        with agl.operation(name=HOSTILE):
            agl.emit_message(HOSTILE)
        agl.emit_object({"large": LARGE})
        return 0.5


async def put_in_queue(store: agl.LightningStore, prompt: str, words: list[str], **given: Any) -> list[str]:
    """Rollouts for these words under one prompt; their ids."""
    resources = await store.add_resources({"prompt": agl.PromptTemplate(template=prompt)})
    made = await store.enqueue_many_rollouts(
        [EnqueueRolloutRequest(input={"word": word}, resources_id=resources.resources_id, **given) for word in words]
    )
    return [rollout.rollout_id for rollout in made]


async def work(store: agl.LightningStore, base_url: str, many: int) -> None:
    """Carry out so many rollouts."""
    sorter = Sorter(base_url)
    runner = agl.LitAgentRunner[Any](agl.LightningTracer(), max_rollouts=many)
    with runner.run_context(agent=agl.rollout(sorter.sort), store=store, worker_id="runner-1"):
        await runner.iter()
    await sorter.close()


async def whole_run(store_url: str) -> None:
    """Every word under both prompts, the hostile task, and two that nobody gets to."""
    with model() as served:
        async with agl.LightningStoreClient(store_url) as store:
            await put_in_queue(store, PROMPTS["first"], WORDS, mode="train")
            retrying = RolloutConfig(max_attempts=2, retry_condition=["failed"])
            await put_in_queue(store, PROMPTS["second"], WORDS, mode="val", config=retrying)
            await store.enqueue_rollout({"word": HOSTILE, "hostile": True}, metadata={"note": HOSTILE})
            await work(store, served.base_url, 2 * len(WORDS) + 2)
            await store.enqueue_rollout({"word": "waiting"})
            await store.enqueue_rollout({"word": "waiting too"})


if __name__ == "__main__":
    asyncio.run(whole_run(sys.argv[1]))
