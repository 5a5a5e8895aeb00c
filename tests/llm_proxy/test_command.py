"""`agl proxy`, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

import agentlightning as agl
from agentlightning.cli import main
from tests.processes import TIMEOUT
from tests.scripted_model import Answer, ScriptedModel

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
            _, errors = process.communicate(timeout=TIMEOUT)

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
        (["--model", "m=http://gpu", "--host", "0.0.0.0"], "requires a token"),
    ],
)
def test_what_is_wrong_with_its_arguments_is_said_in_one_line(arguments: list[str], message: str):
    result = CliRunner().invoke(main, ["proxy", *arguments])

    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def ask(endpoint: str) -> str | None:
    with openai.OpenAI(base_url=endpoint, api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
    return answer.choices[0].message.content


def test_models_in_a_file_are_exchanged_on_sighup_and_a_bad_file_changes_nothing(model: ScriptedModel, tmp_path: Path):
    file = tmp_path / "models.json"

    def write(entries: Any) -> None:
        file.write_text(json.dumps(entries))

    write([{"name": "m", "url": model.base_url, "api_key": "$MY_KEY", "retries": 0}])
    arrived = threading.Event()

    def slowly(_: str) -> Answer:
        arrived.set()
        return Answer("slowly answered", delay=1.0)

    with (
        ScriptedModel(slowly) as slow,
        proxy_process("--models", str(file), MY_KEY="sk-of-the-server") as (process, endpoint),
        ThreadPoolExecutor() as threads,
    ):
        assert process.stderr is not None
        assert ask(endpoint) == "You said: Hello"
        write([{"name": "m", "url": slow.base_url, "max_concurrency": 3}])
        process.send_signal(signal.SIGHUP)
        assert "The models are now: m" in next_line(process, "models")
        under_way = threads.submit(ask, endpoint)
        assert arrived.wait(TIMEOUT)
        write([{"name": "m", "url": model.base_url}])
        process.send_signal(signal.SIGHUP)
        assert "The models are now: m" in next_line(process, "models")
        assert ask(endpoint) == "You said: Hello"
        assert under_way.result() == "slowly answered"
        write([{"name": "m"}])
        process.send_signal(signal.SIGHUP)
        assert "The models are unchanged: model_list: url: Field required" in next_line(process, "models")
        assert ask(endpoint) == "You said: Hello"

    assert model.calls[0].headers["authorization"] == "Bearer sk-of-the-server"


def next_line(process: subprocess.Popen[str], word: str) -> str:
    assert process.stderr is not None
    return next(line for line in process.stderr if word in line)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "is not JSON"),
        ('{"m": "http://host"}', "holds no list of objects"),
        ('[{"name": "m", "url": "http://host", "api_key": "$NOT_SET"}]', "NOT_SET, the key of 'm', is not set"),
    ],
)
def test_a_file_of_models_that_cannot_be_read_is_refused(text: str, said: str, tmp_path: Path):
    (tmp_path / "models.json").write_text(text)

    refused = CliRunner().invoke(main, ["proxy", "--models", str(tmp_path / "models.json")])

    assert refused.exit_code == 1
    assert said in refused.output
