"""`agl proxy`, as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest
from click.testing import CliRunner

import agentlightning as agl
from agentlightning.cli import main
from tests.scripted_model import ScriptedModel

from .conftest import started


@contextmanager
def proxy_process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "agentlightning.cli", "proxy", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+/v1", process.stdout.readline())
        yield process, found[0] if found else ""
    finally:
        process.kill()
        process.communicate()


async def test_it_serves_records_and_ends_cleanly_on_sigterm(model: ScriptedModel):
    async with agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0) as server:
        await server.start()
        attempt = await started(server)
        arguments = (
            "--model",
            f"m={model.base_url}",
            "--key",
            "m=MY_KEY",
            "--serves",
            "m=served",
            "--store",
            server.endpoint,
        )
        with proxy_process(*arguments, MY_KEY="sk-of-the-server") as (process, endpoint):
            own = endpoint.replace("/v1", f"/rollout/{attempt.rollout_id}/attempt/{attempt.attempt_id}/v1")
            with openai.OpenAI(base_url=own, api_key="none") as client:
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=20)

        assert process.returncode == 0
        assert '"POST /rollout/' in errors
        assert "sk-of-the-server" not in errors
        assert len(await attempt.spans()) == 1
    assert model.calls[0].headers["authorization"] == "Bearer sk-of-the-server"
    assert model.calls[0].body["model"] == "served"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nonsense"], "NAME=VALUE"),
        (["--model", "m=gpu:8000"], "starts with http"),
        (["--model", "m=http://gpu", "--key", "x=KEY"], "no --model named 'x'"),
        (["--model", "m=http://gpu", "--key", "m=NOT_SET_AT_ALL"], "NOT_SET_AT_ALL"),
        (["--model", "m=http://gpu", "--host", "0.0.0.0"], "needs a token"),
    ],
)
def test_what_is_wrong_with_its_arguments_is_said_in_one_line(arguments: list[str], message: str):
    result = CliRunner().invoke(main, ["proxy", *arguments])

    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output
