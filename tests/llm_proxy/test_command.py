"""`agl proxy` as a process, and its error messages."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

import agentlightning as agl
from agentlightning.cli import main
from tests.processes import TIMEOUT, Program
from tests.scripted_model import ScriptedModel

from .conftest import start_attempt

KEY = "sk-of-the-server"


def ask(url: str, model: str = "m") -> str | None:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        response = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello"}])
    return response.choices[0].message.content


async def test_proxy_records_calls_and_stops_cleanly_on_sigterm(model: ScriptedModel):
    async with agl.LightningStoreServer(agl.InMemoryLightningStore(), port=0) as server:
        await server.start()
        attempt = await start_attempt(server)
        options = ("--port", "0", "--model", f"m={model.base_url}", "--key", "m=MY_KEY", "--serves", "m=served")
        store = ("--store", server.endpoint)
        with Program("agentlightning.cli", "proxy", *options, *store, environment={"MY_KEY": KEY}) as proxy:
            root = proxy.wait_for_line(r"Proxy for m at (http://\S+)/v1")[1]
            ask(f"{root}/rollout/{attempt.rollout_id}/attempt/{attempt.attempt_id}/v1")
            proxy.send_signal(signal.SIGTERM)
            assert proxy.wait() == 0

        assert '"POST /rollout/' in proxy.output
        assert KEY not in proxy.output
        assert len(await attempt.spans()) == 1
    assert model.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert model.calls[0].body["model"] == "served"


def test_sighup_reloads_models_without_dropping_calls_and_keeps_them_if_the_file_is_invalid(
    model: ScriptedModel, tmp_path: Path
):
    file = tmp_path / "models.json"
    arrived, released = threading.Event(), threading.Event()

    def slow_answer(_: str) -> str:
        arrived.set()
        assert released.wait(TIMEOUT)
        return "slow answer"

    def reload(entry: dict[str, Any], line: str) -> None:
        file.write_text(json.dumps([entry]))
        proxy.send_signal(signal.SIGHUP)
        proxy.wait_for_line(line)

    file.write_text(json.dumps([{"name": "a", "url": model.base_url, "api_key": "$MY_KEY", "retries": 0}]))
    arguments = ("--port", "0", "--models", str(file))
    with (
        ScriptedModel(slow_answer) as slow,
        Program("agentlightning.cli", "proxy", *arguments, environment={"MY_KEY": KEY}) as proxy,
        ThreadPoolExecutor() as threads,
    ):
        url = proxy.wait_for_line(r"Proxy for a at (\S+),")[1]
        assert ask(url, "a") == "You said: Hello"
        reload({"name": "b", "url": slow.base_url, "max_concurrency": 3}, "The models are now: b")
        in_flight = threads.submit(ask, url, "b")
        assert arrived.wait(TIMEOUT)
        reload({"name": "c", "url": model.base_url}, "The models are now: c")
        assert ask(url, "c") == "You said: Hello"
        released.set()
        assert in_flight.result() == "slow answer"
        reload({"name": "d"}, "Reload failed: model_list: url: Field required")
        assert ask(url, "c") == "You said: Hello"

    assert model.calls[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no model given"),
        (["--model", "nonsense"], "NAME=VALUE"),
        (["--model", "m=gpu:8000"], "must start with http"),
        (["--model", "m=http://gpu", "--key", "x=KEY"], "no --model named 'x'"),
        (["--model", "m=http://gpu", "--key", "m=NOT_SET_AT_ALL"], "NOT_SET_AT_ALL"),
        (["--model", "m=http://gpu", "--host", "0.0.0.0"], "requires a token"),
    ],
)
def test_invalid_arguments_have_a_message_without_traceback(arguments: list[str], message: str):
    result = CliRunner().invoke(main, ["proxy", *arguments])

    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "is not JSON"),
        ('{"m": "http://host"}', "does not contain a list of objects"),
        ('[{"name": "m", "url": "http://host", "api_key": "$NOT_SET"}]', "NOT_SET (api_key of 'm') is not set"),
    ],
)
def test_invalid_file_of_models_is_refused(text: str, message: str, tmp_path: Path):
    (tmp_path / "models.json").write_text(text)

    result = CliRunner().invoke(main, ["proxy", "--models", str(tmp_path / "models.json")])

    assert result.exit_code == 1
    assert message in result.output
