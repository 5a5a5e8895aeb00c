"""Programs in other languages as agents of `agl run`: calls, spans, rewards, and no stored API keys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import agentlightning as agl
from agentlightning.adapter import llm_calls
from tests.processes import TIMEOUT
from tests.scripted_model import Answer, Call, ScriptedModel

EXAMPLE = Path(__file__).parent.parent.parent / "examples/any_language"
PLANTED = "sk-planted-0123456789abcdef"
TASK = "What is 17 times 3?"


def call_tool_then_answer(call: Call) -> Answer:
    last = call.body["messages"][-1]
    if last["role"] == "user" and "tools" in call.body:
        return Answer(tool_calls=[("multiply", {"a": 17, "b": 3})])
    return Answer("17 times 3 is 51.")


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `agl run` with a planted key for the model and another one in the environment."""
    with ScriptedModel(call_tool_then_answer, takes_call=True) as model:
        options = ("--model", f"tiny={model.base_url}", "--key", "tiny=UPSTREAM_KEY", "--task", TASK)
        result = subprocess.run(
            [sys.executable, "-m", "agentlightning.cli", "run", *options, "--", *command],
            cwd=cwd,
            env={**os.environ, "UPSTREAM_KEY": PLANTED, "OPENAI_API_KEY": f"{PLANTED}-another", "PYTHONWARNINGS": ""},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert {call.headers["authorization"] for call in model.calls} == {f"Bearer {PLANTED}"}
    return result


def assert_no_key_is_stored(result: subprocess.CompletedProcess[str], folder: Path) -> None:
    stored = b"".join(file.read_bytes() for file in folder.iterdir() if file.name.startswith("agl.db"))
    assert TASK.encode() in stored
    for secret in ("sk-planted", "agl-attempt-"):
        assert secret.encode() not in stored
        assert secret not in result.stdout + result.stderr


async def test_shell_script_with_curl_runs_as_agent(tmp_path: Path) -> None:
    result = run("sh", "-c", f"env; sh {EXAMPLE / 'agent.sh'}", cwd=tmp_path)

    assert result.stdout.split(" ", 1)[1] == "succeeded, reward 1\n"
    assert_no_key_is_stored(result, tmp_path)
    async with agl.open_store(str(tmp_path / "agl.db")) as store:
        [rollout] = await store.query_rollouts()
        spans = list(await store.query_spans(rollout.rollout_id))
    assert agl.find_final_reward(spans) == 1.0
    [call] = llm_calls(spans)
    assert call.messages == [{"role": "user", "content": TASK}]
    [program] = [span for span in spans if span.name == "agentlightning.operation"]
    assert (call.trace_id, call.parent_id) == (program.trace_id, program.span_id)
    assert {span.trace_id for span in spans} == {program.trace_id}
    assert [span.sequence_id for span in spans] == [1, 2, 3]


async def test_node_program_with_openai_package_runs_as_agent(node_modules: Path, tmp_path: Path) -> None:
    result = run("node", str(node_modules.parent / "agent.mjs"), cwd=tmp_path)

    assert result.stdout.split(" ", 1)[1] == "succeeded, reward 1\n"
    assert_no_key_is_stored(result, tmp_path)
    async with agl.open_store(str(tmp_path / "agl.db")) as store:
        [rollout] = await store.query_rollouts()
        spans = list(await store.query_spans(rollout.rollout_id))
    first, second = llm_calls(spans)
    assert first.output[0]["tool_calls"][0]["function"]["arguments"] == '{"a": 17, "b": 3}'
    assert second.messages[-1]["content"] == "51"
    assert second.output[0]["content"] == "17 times 3 is 51."
    by_name = {span.name: span for span in spans}
    tool, program = by_name["multiply"], by_name["agentlightning.operation"]
    assert (tool.attributes["tool.name"], tool.attributes["a"]) == ("multiply", 17)
    assert (tool.trace_id, tool.parent_id) == (program.trace_id, program.span_id)
    assert agl.find_final_reward(spans) == 1.0


@pytest.fixture
def node_modules() -> Path:
    """Install the example's packages once, inside the Python environment."""
    if not shutil.which("npm"):
        pytest.skip("Node is not installed")
    home = Path(sys.prefix) / "agl-node"
    lock = (EXAMPLE / "package-lock.json").read_text()
    if not (home / "installed").exists() or (home / "installed").read_text() != lock:
        shutil.copytree(EXAMPLE, home, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
        subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
            cwd=home,
            check=True,
            stdout=sys.stderr,
        )
        (home / "installed").write_text(lock)
    shutil.copy(EXAMPLE / "agent.mjs", home)
    return home / "node_modules"
