"""Programs as agents: what they are given, how they are heard, and that nothing of them stays behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.llm_proxy import LLMProxy
from tests.processes import PATIENCE
from tests.scripted_model import ScriptedModel

TOKEN = "agl-secret-" + "0123456789abcdef" * 3


class Workshop:
    """A store over HTTP that asks for a token, and a runner on it."""

    def __init__(self, store: agl.LightningStoreClient) -> None:
        self.store = store

    async def run(self, agent: Any, task: Any = "task", resources: Any = None) -> agl.Rollout:
        runner = agl.LitAgentRunner[Any](agl.OtelTracer())
        with runner.run_context(agent=agent, store=self.store):
            return await runner.step(task, resources)

    async def reward(self, rollout: agl.Rollout) -> float | None:
        return agl.find_final_reward(await self.spans(rollout))

    async def spans(self, rollout: agl.Rollout) -> list[agl.Span]:
        return list(await self.store.query_spans(rollout.rollout_id))

    async def output(self, rollout: agl.Rollout) -> str:
        [step] = [span for span in await self.spans(rollout) if span.name == "agentlightning.operation"]
        return step.attributes["agentlightning.operation.output"]


@pytest.fixture
async def workshop() -> AsyncIterator[Workshop]:
    async with agl.InMemoryLightningStore() as store:
        server = agl.LightningStoreServer(store, port=0, token=TOKEN)
        await server.start()
        async with agl.LightningStoreClient(server.endpoint, token=TOKEN) as client:
            yield Workshop(client)
        await server.stop()


async def test_the_task_is_in_the_environment_and_in_a_file(workshop: Workshop) -> None:
    @agl.command_agent
    def agent(task: Any) -> str:
        return 'echo "$AGL_TASK" "$(cat "$AGL_TASK_FILE")"'

    assert agent("anything") == 'echo "$AGL_TASK" "$(cat "$AGL_TASK_FILE")"'
    assert await workshop.output(await workshop.run(agent, "add 1")) == "add 1 add 1\n"
    assert await workshop.output(await workshop.run(agent, {"n": 1})) == '{"n": 1} {"n": 1}\n'


@pytest.mark.parametrize(
    ("script", "reward"),
    [
        ("agl reward 0.25; agl reward -0.5; echo 9", -0.5),
        ("echo working; echo 0.75", 0.75),
        ("echo working; echo '{\"reward\": 1}'; echo", 1.0),
        ("echo 1; echo done", None),
        ("true", None),
    ],
)
async def test_the_reward_is_what_the_program_says_last(workshop: Workshop, script: str, reward: float | None) -> None:
    @agl.command_agent
    def agent(task: Any) -> str:
        return script

    rollout = await workshop.run(agent)

    assert rollout.status == "succeeded"
    assert await workshop.reward(rollout) == reward


async def test_a_grader_has_the_last_word(workshop: Workshop) -> None:
    def grader(task: Any, output: str) -> float:
        return float(task in output)

    @agl.command_agent(grader=grader)
    def agent(task: Any) -> list[str]:
        return ["echo", "found:", task]

    assert await workshop.reward(await workshop.run(agent)) == 1.0


async def test_a_program_that_fails_fails_the_attempt_with_its_last_words(workshop: Workshop) -> None:
    @agl.command_agent
    def agent(task: Any) -> str:
        return "echo so far; echo no such file >&2; exit 3"

    rollout = await workshop.run(agent)

    assert rollout.status == "failed"
    attempt = await workshop.store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.metadata is not None
    assert "exit code 3: no such file" in attempt.metadata["reason"]
    assert await workshop.output(rollout) == "so far\n"


async def test_a_program_that_is_not_there_fails_the_attempt(workshop: Workshop) -> None:
    @agl.command_agent
    def agent(task: Any) -> list[str]:
        return ["no-such-program"]

    assert (await workshop.run(agent)).status == "failed"


async def test_a_timeout_ends_the_program_and_all_it_has_started(workshop: Workshop, tmp_path: Path) -> None:
    @agl.command_agent(timeout=2.0)
    def agent(task: Any) -> str:
        return f"sleep 300 & echo $! > {tmp_path}/pid; trap '' TERM; while true; do sleep 300; done"

    rollout = await workshop.run(agent)

    assert rollout.status == "failed"
    assert await gone(int((tmp_path / "pid").read_text()))


async def test_what_a_program_leaves_in_the_background_ends_with_it(workshop: Workshop, tmp_path: Path) -> None:
    @agl.command_agent
    def agent(task: Any) -> str:
        return f"sleep 300 & echo $! > {tmp_path}/pid; echo 1"

    assert await workshop.reward(await workshop.run(agent)) == 1.0
    assert await gone(int((tmp_path / "pid").read_text()))


async def test_only_what_is_allowed_is_in_the_environment(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("WANTED", "yes")

    @agl.command_agent(environment=["WANTED"])
    def agent(task: Any) -> str:
        return "env"

    output = await workshop.output(await workshop.run(agent))

    assert "planted" not in output
    assert TOKEN not in output
    assert "WANTED=yes" in output


async def test_a_shell_script_with_curl_is_traced_rewarded_and_cannot_speak_for_others(workshop: Workshop) -> None:
    other = await workshop.store.start_rollout("another task")

    @agl.command_agent(environment={"OTHER": f"{other.rollout_id} {other.attempt.attempt_id}"})
    def agent(task: Any) -> list[str]:
        return ["sh", str(Path(__file__).parent / "agent.sh")]

    with ScriptedModel(lambda question: f"echo {question}") as model:
        upstream = {"name": "tiny", "url": model.base_url, "api_key": "sk-upstream-1234567890"}
        async with LLMProxy(None, [upstream], workshop.store, token=TOKEN) as proxy:
            rollout = await workshop.run(agent, "hello", {"llm": proxy.as_resource()})

    assert rollout.status == "succeeded"
    assert await workshop.reward(rollout) == 0.5
    by_name = {span.name: span for span in await workshop.spans(rollout)}
    assert by_name["openai.chat.completion"].attributes["gen_ai.completion.0.content"] == "echo hello"
    assert by_name["from curl"].trace_id == by_name["agentlightning.operation"].trace_id
    assert by_name["from curl"].parent_id == by_name["agentlightning.operation"].span_id
    assert not await workshop.store.query_spans(other.rollout_id)
    assert "sk-upstream" not in str([span.model_dump() for span in by_name.values()])


async def gone(pid: int) -> bool:
    """Whether the process ends, soon; one that nobody has taken note of yet counts as ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(watched, ended.set)
    try:
        async with asyncio.timeout(PATIENCE):
            return await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(watched)
        os.close(watched)
