"""`agl store`: database, address, tokens, limits, receivers of spans, and administration."""

from __future__ import annotations

import asyncio
import signal
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from click.testing import CliRunner

import agentlightning as agl
from agentlightning.cli import main
from agentlightning.cli.options import LIMIT_OPTIONS, PROXY_LIMIT_OPTIONS
from agentlightning.cli.store import _display_name
from agentlightning.errors import Forbidden, TooLarge
from agentlightning.http.limits import Limits
from agentlightning.llm_proxy.proxy import LIMITS
from agentlightning.store import LightningStoreClient
from tests.otlp_receiver import Receiver
from tests.processes import Program, free_port


def store(*arguments: str, cwd: Path, **environment: str) -> Program:
    return Program("agentlightning.cli", "store", *arguments, cwd=cwd, environment=environment)


async def test_store_serves_agl_db_of_current_folder_and_announces_it(tmp_path: Path) -> None:
    port = free_port()
    with store("--port", str(port), cwd=tmp_path) as program:
        async with LightningStoreClient(f"http://127.0.0.1:{port}") as client:
            rollout = await client.enqueue_rollout(input="a task")
        program.wait_for_line('"POST /enqueue_rollout HTTP/1.1" 200')

    assert program.lines[0] == f"Store at http://127.0.0.1:{port}, database {tmp_path}/agl.db. Press Ctrl-C to stop."
    async with agl.open_store(str(tmp_path / "agl.db")) as database:
        assert await database.get_rollout_by_id(rollout.rollout_id) == rollout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_stops_store_cleanly_despite_waiting_request(number: signal.Signals, tmp_path: Path) -> None:
    port = free_port()
    with store("--port", str(port), cwd=tmp_path) as program:
        async with LightningStoreClient(f"http://127.0.0.1:{port}") as client:
            await client.statistics()
        with socket.create_connection(("127.0.0.1", port)) as waiting:
            waiting.sendall(f"GET /dequeue_rollout?wait=20 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            program.send_signal(number)

            assert program.wait(timeout=10) == 0


def test_stopped_store_releases_port_and_database(tmp_path: Path) -> None:
    port = free_port()
    for _ in range(2):  # the second store needs the same port and the same file lock
        with store("--port", str(port), cwd=tmp_path) as program:
            program.wait_for_line("Store at")
            program.send_signal(signal.SIGTERM)

            assert program.wait(timeout=10) == 0
            assert psutil.pid_exists(program.pid) is False


async def test_durability_process_is_announced(tmp_path: Path) -> None:
    port = free_port()
    with store("--port", str(port), "--durability", "process", cwd=tmp_path) as program:
        program.wait_for_line("Store at")
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/health") as health:
            assert (await health.json())["durability"] == "process"

    assert "power" in program.output


async def test_database_and_token_can_come_from_environment(tmp_path: Path) -> None:
    token, port = "0123456789abcdef" * 2, free_port()
    with store("--port", str(port), cwd=tmp_path, AGL_DB="memory:", AGL_TOKEN=token) as program:
        async with LightningStoreClient(f"http://127.0.0.1:{port}", token=token) as client:
            await client.statistics()
        async with LightningStoreClient(f"http://127.0.0.1:{port}", token="x" * 32) as stranger:
            with pytest.raises(PermissionError):
                await stranger.statistics()

    assert "database memory: (not persistent)" in program.lines[0]
    assert token not in program.output
    assert files_in(tmp_path) == []


def test_error_names_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with store("--port", str(port), "--db", "memory:", cwd=tmp_path) as program:
            assert program.wait() == 1

    program.wait_for_line(f"^Error: .*127.0.0.1:{port}")
    assert "Traceback" not in program.output


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--host", "0.0.0.0", "--db", "memory:"), 1, "token"),
        (("--log-level", "nonsense"), 2, "'nonsense' is not one of 'debug', 'info', 'warning', 'error'"),
    ],
)
def test_invalid_options_are_rejected(options: tuple[str, ...], code: int, message: str) -> None:
    rejected = CliRunner().invoke(main, ["store", *options])

    assert rejected.exit_code == code
    assert message in rejected.output


def test_database_in_use_is_rejected(tmp_path: Path) -> None:
    with store("--port", str(free_port()), cwd=tmp_path) as first:
        first.wait_for_line("^Store at")
        with store("--port", str(free_port()), cwd=tmp_path) as second:
            assert second.wait() == 1

    second.wait_for_line("^Error: .*agl.db")
    assert "Traceback" not in second.output


async def test_spans_are_forwarded_and_receiver_key_is_not_printed(tmp_path: Path) -> None:
    key = "sk-lf-planted-0123456789abcdef"
    with Receiver() as receiver:
        port = free_port()
        options = ("--port", str(port), "--export-otlp", f"lf={receiver.url}", "--export-headers", "lf=LF_HEADERS")
        with store(*options, cwd=tmp_path, LF_HEADERS=f"Authorization=Basic%20{key}") as program:
            async with LightningStoreClient(f"http://127.0.0.1:{port}") as client:
                attempted = await client.start_rollout("a task")
                ids: dict[str, Any] = {"rollout_id": attempted.rollout_id, "attempt_id": attempted.attempt.attempt_id}
                await client.add_span(agl.Span.from_attributes(attributes={}, name="step", **ids))
            receiver.wait_for(1)
            program.send_signal(signal.SIGINT)
            assert program.wait() == 0

    assert (receiver.names, receiver.headers[0]["authorization"]) == (["step"], f"Basic {key}")
    program.wait_for_line(f"^Spans are forwarded to lf, {receiver.url}/v1/traces")
    assert key not in program.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--export-otlp", "localhost"), "write an OTLP target as"),
        (("--export-headers", "x=HOME"), "--export-headers names 'x', but no --export-otlp NAME=URL does"),
        (("--export-otlp", "x=http://host", "--export-headers", "x=NOT_SET"), "NOT_SET (for 'x') is not set"),
        (("--export-otlp", "x=http://host", "--export-headers", "x=HOME"), "write headers of an OTLP target as"),
        (("--export-otlp", "http://host", "--export-otlp", "http://host/b"), "two OTLP targets are named 'host'"),
    ],
)
def test_invalid_receiver_is_rejected(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["store", "--db", "memory:", *options])

    assert refused.exit_code != 0
    assert message in refused.output
    assert refused.exception is None or isinstance(refused.exception, SystemExit)


async def test_limits_and_runner_token_can_be_set(tmp_path: Path) -> None:
    admin, runner, port = "a" * 32, "r" * 32, free_port()
    options = ("--max-body", "4KiB", "--max-page", "2", "--keep-keys", "--db", "memory:", "--port", str(port))
    with store(*options, cwd=tmp_path, AGL_TOKEN=admin, AGL_RUNNER_TOKEN=runner) as program:
        program.wait_for_line("^Store at")
        async with (
            LightningStoreClient(f"http://127.0.0.1:{port}", token=admin) as admins,
            LightningStoreClient(f"http://127.0.0.1:{port}", token=runner) as runners,
        ):
            with pytest.raises(TooLarge, match="4 KiB"):
                await admins.enqueue_rollout("x" * 5_000)
            with pytest.raises(Forbidden):
                await runners.enqueue_rollout("task")
            rollout = await admins.start_rollout("task")
            key, ids = "sk-proj-" + "a1B2" * 8, (rollout.rollout_id, rollout.attempt.attempt_id)
            named: dict[str, Any] = {"rollout_id": ids[0], "attempt_id": ids[1]}
            await runners.add_span(agl.Span.from_attributes(name="a", attributes={"key": key}, **named))
            [span] = await admins.query_spans(rollout.rollout_id)

    assert span.attributes["key"] == key
    assert not any(token in program.output for token in (admin, runner))


def test_limit_options_show_actual_defaults() -> None:
    def defaults(options: dict[str, tuple[str, Any, str, str]]) -> dict[str, Any]:
        return {name: kind.convert(text, None, None) for name, (_, kind, text, _) in options.items()}

    proxy = asdict(LIMITS)
    assert defaults(PROXY_LIMIT_OPTIONS) == {name: proxy[name] for name in PROXY_LIMIT_OPTIONS}
    assert {**defaults(PROXY_LIMIT_OPTIONS), **defaults(LIMIT_OPTIONS)} == asdict(Limits())


@pytest.mark.parametrize("size", ["-1", "4KB", "much", "1.5MiB"])
def test_invalid_size_is_rejected(size: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["store", "--max-body", size])

    assert result.exit_code == 2
    assert "is not a size such as 65536, 64KiB, 16MiB or 1GiB" in result.output


def test_administration_commands_report_results(tmp_path: Path) -> None:
    database = str(tmp_path / "agl.db")
    asyncio.run(_add_three_succeeded_rollouts(database))

    def output_of(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["store", *arguments, "--db", database])
        assert result.exit_code == 0, result.output
        return result.output

    stats = output_of("stats")
    assert "size on disk" in stats
    assert "3 succeeded" in stats
    assert "is sound" in output_of("check")
    assert output_of("backup", str(tmp_path / "copy.db")).startswith(f"{tmp_path}/copy.db: ")
    assert output_of("gc", "--older-than", "0s", "--dry-run") == "3 rollouts would be deleted.\n"
    assert output_of("gc", "--older-than", "0s") == "3 rollouts were deleted.\n"
    assert "3 succeeded" not in output_of("stats")


async def _add_three_succeeded_rollouts(database: str) -> None:
    async with agl.open_store(database) as store:
        for _ in range(3):
            rollout = await store.start_rollout("task")
            await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")


def test_password_is_not_printed() -> None:
    assert _display_name("postgresql://me:secret@host:5432/agl") == "postgresql://me:***@host:5432/agl"
    assert _display_name("postgresql://host/agl") == "postgresql://host/agl"


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())
