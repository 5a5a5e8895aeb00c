"""A sample run: an agent with a tool and a model, two prompts, tasks that fail, and one with hostile content."""

from __future__ import annotations

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
REVERSED_TEXT = "\u202egnp.exe"
HOSTILE = f"{SCRIPT} {ANSI} {REVERSED_TEXT}"
LARGE = "large " * 180_000
"""A payload of 1 MB."""

USAGE = {"usage": {"prompt_tokens": 40, "completion_tokens": 3, "total_tokens": 43, "cost": 0.0002}}
"""The usage in every response, with a cost as paid services report it."""

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look up the meaning of a word.",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
        },
    }
]


def sample_model() -> ScriptedModel:
    """Return a model that first calls the tool, then answers; with the second prompt it is always right."""

    def answer(call: Call) -> Answer:
        messages = call.body["messages"]
        if messages[-1]["role"] != "tool":
            return Answer(tool_calls=[("look_up", {"word": messages[-1]["content"].split()[-6]})], extra=USAGE)
        question = messages[0]["content"]
        word = next(word for word in WORDS if f" {word} " in question)
        right = "animal" if word in ANIMALS else "fruit"
        return Answer(right if "You know" in question else "animal", logprobs=True, extra=USAGE)

    return ScriptedModel(answer, takes_call=True)


class SortingAgent:
    """Sorts words into animals and fruits, with one tool call for each word."""

    def __init__(self, base_url: str) -> None:
        self._client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)

    async def close(self) -> None:
        await self._client.close()

    async def sort(self, task: Any, prompt: agl.PromptTemplate) -> float:
        """Return the reward: 1.0 for the right answer."""
        if task.get("hostile"):
            return self._emit_hostile_content()
        if task["word"] == "lime":
            raise ValueError(f"no label for {task['word']!r}")
        messages: list[Any] = [{"role": "user", "content": prompt.format(word=task["word"])}]
        reply = (await self._complete(messages)).choices[0].message
        messages += [reply, self._look_up(reply.tool_calls[0], task["word"])]
        label = (await self._complete(messages)).choices[0].message.content
        return 1.0 if label == ("animal" if task["word"] in ANIMALS else "fruit") else 0.0

    async def _complete(self, messages: list[Any]) -> Any:
        return await self._client.chat.completions.create(model="scripted", messages=messages, tools=TOOLS)

    def _look_up(self, call: Any, word: str) -> dict[str, Any]:
        with agl.operation(name="look_up") as operation:
            operation.set_input(word=word)
            operation.set_output("something alive")
        return {"role": "tool", "tool_call_id": call.id, "content": "something alive"}

    def _emit_hostile_content(self) -> float:
        with agl.operation(name=HOSTILE):
            agl.emit_message(HOSTILE)
        agl.emit_object({"large": LARGE})
        return 0.5


async def enqueue_words(store: agl.LightningStore, prompt: str, words: list[str], **options: Any) -> list[str]:
    """Enqueue a rollout for each word under one prompt; return their ids."""
    resources = await store.add_resources({"prompt": agl.PromptTemplate(template=prompt)})
    rollouts = await store.enqueue_many_rollouts(
        [EnqueueRolloutRequest(input={"word": word}, resources_id=resources.resources_id, **options) for word in words]
    )
    return [rollout.rollout_id for rollout in rollouts]


async def execute_rollouts(store: agl.LightningStore, base_url: str, count: int) -> None:
    """Execute `count` queued rollouts with one runner."""
    agent = SortingAgent(base_url)
    runner = agl.LitAgentRunner[Any](agl.LightningTracer(), max_rollouts=count)
    with runner.run_context(agent=agl.rollout(agent.sort), store=store, worker_id="runner-1"):
        await runner.iter()
    await agent.close()


async def create_sample_run(store_url: str) -> None:
    """Run every word with both prompts and the hostile task, and leave two rollouts in the queue."""
    with sample_model() as model:
        async with agl.LightningStoreClient(store_url) as store:
            await enqueue_words(store, PROMPTS["first"], WORDS, mode="train")
            retrying = RolloutConfig(max_attempts=2, retry_condition=["failed"])
            await enqueue_words(store, PROMPTS["second"], WORDS, mode="val", config=retrying)
            await store.enqueue_rollout({"word": HOSTILE, "hostile": True}, metadata={"note": HOSTILE})
            await execute_rollouts(store, model.base_url, 2 * len(WORDS) + 2)
            await store.enqueue_rollout({"word": "waiting"})
            await store.enqueue_rollout({"word": "waiting too"})
