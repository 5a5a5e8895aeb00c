"""Programs as agents: their input, their results, and the end of their processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.llm_proxy import LLMProxy
from tests.processes import TIMEOUT
from tests.scripted_model import ScriptedModel

TOKEN = "agl-secret-" + "0123456789abcdef" * 3


class AgentRunner:
    """A store over HTTP with a token, and a runner that uses it."""

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
async def site() -> AsyncIterator[AgentRunner]:
    async with agl.InMemoryLightningStore() as store:
        server = agl.LightningStoreServer(store, port=0, token=TOKEN)
        await server.start()
        async with agl.LightningStoreClient(server.endpoint, token=TOKEN) as client:
            yield AgentRunner(client)
        await server.stop()


async def test_task_is_in_environment_and_file(site: AgentRunner) -> None:
    @agl.command_agent
    def agent(task: Any) -> str:
        return 'echo "$AGL_TASK" "$(cat "$AGL_TASK_FILE")"'

    assert agent("anything") == 'echo "$AGL_TASK" "$(cat "$AGL_TASK_FILE")"'
    assert await site.output(await site.run(agent, "add 1")) == "add 1 add 1\n"
    assert await site.output(await site.run(agent, {"n": 1})) == '{"n": 1} {"n": 1}\n'


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
async def test_reward_is_last_reported_value(site: AgentRunner, script: str, reward: float | None) -> None:
    @agl.command_agent
    def agent(task: Any) -> str:
        return script

    rollout = await site.run(agent)

    assert rollout.status == "succeeded"
    assert await site.reward(rollout) == reward


async def test_grader_overrides_output(site: AgentRunner) -> None:
    def grader(task: Any, output: str) -> float:
        return float(task in output)

    @agl.command_agent(grader=grader)
    def agent(task: Any) -> list[str]:
        return ["echo", "found:", task]

    assert await site.reward(await site.run(agent)) == 1.0


async def test_failed_program_fails_attempt_with_last_lines(site: AgentRunner) -> None:
    @agl.command_agent
    def agent(task: Any) -> str:
        return "echo so far; echo no such file >&2; exit 3"

    rollout = await site.run(agent)

    assert rollout.status == "failed"
    attempt = await site.store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    assert attempt.metadata is not None
    assert "exited with code 3: no such file" in attempt.metadata["reason"]
    assert await site.output(rollout) == "so far\n"


async def test_missing_program_fails_attempt(site: AgentRunner) -> None:
    @agl.command_agent
    def agent(task: Any) -> list[str]:
        return ["no-such-program"]

    assert (await site.run(agent)).status == "failed"


async def test_timeout_kills_program_and_children(site: AgentRunner, tmp_path: Path) -> None:
    @agl.command_agent(timeout=0.5)
    def agent(task: Any) -> str:
        return f"sleep 300 & echo $! > {tmp_path}/pid; trap '' TERM; while true; do sleep 300; done"

    rollout = await site.run(agent)

    assert rollout.status == "failed"
    assert await ends(int((tmp_path / "pid").read_text()))


async def test_background_children_end_with_program(site: AgentRunner, tmp_path: Path) -> None:
    @agl.command_agent
    def agent(task: Any) -> str:
        return f"sleep 300 & echo $! > {tmp_path}/pid; echo 1"

    assert await site.reward(await site.run(agent)) == 1.0
    assert await ends(int((tmp_path / "pid").read_text()))


async def test_environment_holds_only_allowed_variables(site: AgentRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("WANTED", "yes")

    @agl.command_agent(environment=["WANTED"])
    def agent(task: Any) -> str:
        return "env"

    output = await site.output(await site.run(agent))

    assert "planted" not in output
    assert TOKEN not in output
    assert "WANTED=yes" in output


async def test_shell_script_is_traced_and_cannot_write_to_other_attempt(site: AgentRunner) -> None:
    other = await site.store.start_rollout("another task")

    @agl.command_agent(environment={"OTHER": f"{other.rollout_id} {other.attempt.attempt_id}"})
    def agent(task: Any) -> list[str]:
        return ["sh", str(Path(__file__).parent / "agent.sh")]

    with ScriptedModel(lambda question: f"echo {question}") as model:
        upstream = {"name": "tiny", "url": model.base_url, "api_key": "sk-upstream-1234567890"}
        async with LLMProxy(None, [upstream], site.store, token=TOKEN) as proxy:
            rollout = await site.run(agent, "hello", {"llm": proxy.as_resource()})

    assert rollout.status == "succeeded"
    assert await site.reward(rollout) == 0.5
    by_name = {span.name: span for span in await site.spans(rollout)}
    assert by_name["openai.chat.completion"].attributes["gen_ai.completion.0.content"] == "echo hello"
    assert by_name["from curl"].trace_id == by_name["agentlightning.operation"].trace_id
    assert by_name["from curl"].parent_id == by_name["agentlightning.operation"].span_id
    assert not await site.store.query_spans(other.rollout_id)
    assert "sk-upstream" not in str([span.model_dump() for span in by_name.values()])


async def ends(pid: int) -> bool:
    """Wait until the process ends, and return True if it does; a zombie counts as ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(watched, ended.set)
    try:
        async with asyncio.timeout(TIMEOUT):
            return await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(watched)
        os.close(watched)
