"""Options of the commands that run servers: ports, and tokens that other users cannot see."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agentlightning.cli import main
from agentlightning.errors import InvalidInput, StoreUnavailable
from agentlightning.http.server import listen
from agentlightning.store import LightningStoreClient
from tests.processes import Program, free_port

TOKEN = "0123456789abcdef" * 2


@pytest.mark.parametrize("port", ["70000", "-1", "http"])
@pytest.mark.parametrize("command", [["store"], ["proxy"], ["llm"], ["dashboard"], ["train", "x.py:agent"]], ids=str)
def test_invalid_port_is_refused_in_one_sentence(command: list[str], port: str) -> None:
    refused = CliRunner().invoke(main, [*command, "--port", port])

    assert refused.exit_code == 2
    assert "Invalid value for '--port'" in refused.output


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AGL_SERVER_PORT": "70000"}, "AGL_SERVER_PORT must be a number from 0 to 65535, not '70000'"),
        ({"AGL_SERVER_HOST": "192.0.2.1"}, "the store requires a token; set AGL_TOKEN"),
        ({"AGL_SERVER_HOST": "192.0.2.1", "AGL_TOKEN": TOKEN}, "the store cannot listen on 192.0.2.1:4747"),
    ],
)
def test_train_says_why_its_store_cannot_start(environment: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("TASKS = [1]\ndef agent(task):\n    return 1.0\n")
    command = ("train", "agent.py:agent", "--role", "algorithm")
    with Program("agentlightning.cli", *command, cwd=tmp_path, environment=environment) as program:
        assert program.wait() == 1

    assert message in program.output
    assert "Traceback" not in program.output


@pytest.mark.parametrize(
    ("host", "port", "error"),
    [
        ("127.0.0.1", 70_000, InvalidInput),
        ("127.0.0.1", -1, InvalidInput),
        ("192.0.2.1", 0, StoreUnavailable),
        ("no such host", 0, StoreUnavailable),
        ("a\0b", 0, InvalidInput),
        ("\ud800", 0, InvalidInput),
        ("x" * 300, 0, InvalidInput),
        ("x." * 300, 0, InvalidInput),
    ],
)
def test_server_that_cannot_listen_says_why_and_what_to_do(host: str, port: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"choose (one|another)") as raised:
        listen(host, port, server="store", remedy="choose another host")

    assert len(str(raised.value).splitlines()) == 1


async def test_token_can_come_from_a_file(tmp_path: Path) -> None:
    file, port = tmp_path / "token", free_port()
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    arguments = ("store", "--port", str(port), "--db", "memory:", "--token-file", str(file))
    with Program("agentlightning.cli", *arguments, environment={"AGL_TOKEN": "x" * 32}) as program:
        program.wait_for_line("^Store at")
        async with LightningStoreClient(f"http://127.0.0.1:{port}", token=TOKEN) as client:
            await client.statistics()

    assert "Warning" not in program.output
    assert TOKEN not in program.output


@pytest.mark.parametrize(
    ("content", "mode", "extra", "message"),
    [
        ("", 0o600, (), "must contain one token and nothing else"),
        ("two tokens", 0o600, (), "must contain one token and nothing else"),
        (TOKEN, 0o644, ("--host", "256.0.0.1"), "other users can read or change the token file"),
        (TOKEN, 0o600, ("--token", TOKEN), "pass either --token or --token-file"),
        ("short", 0o600, (), "too short"),
    ],
)
@pytest.mark.parametrize(
    "command", [["store", "--db", "memory:"], ["proxy", "--model", "m=http://127.0.0.1:1"]], ids=str
)
def test_token_file_is_checked(
    command: list[str], content: str, mode: int, extra: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(mode)

    refused = CliRunner().invoke(main, [*command, "--token-file", str(file), *extra])

    assert refused.exit_code != 0
    assert message in refused.output
    assert TOKEN not in refused.output
