"""`agl` itself: its commands, their help, and the time that help takes."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys

import pytest
from click.testing import CliRunner

from agentlightning.cli import COMMANDS, main
from tests.timing import quickest


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(main, ["--help"])

    assert shown.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in shown.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    shown = CliRunner().invoke(main, [command, "--help"])

    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: main {command} ")


def test_unknown_command_is_named() -> None:
    shown = CliRunner().invoke(main, ["fly"])

    assert shown.exit_code == 2
    assert "No such command 'fly'" in shown.output


async def test_help_takes_less_than_half_a_second_of_cpu() -> None:
    async def seconds_of_cpu() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = sys.executable, "-m", "agentlightning.cli", "--help"
        helping = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        assert await helping.wait() == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert await quickest(seconds_of_cpu, 0.5) < 0.5


def test_help_imports_nothing_heavy() -> None:
    heavy = {"pydantic", "starlette", "uvicorn", "aiohttp", "opentelemetry", "openai", "rich", "xllamacpp", "apsw"}
    code = "import agentlightning.cli as cli, sys; cli.main(['--help'], standalone_mode=False); print(*sys.modules)"

    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert heavy.isdisjoint(printed.splitlines()[-1].split())


def test_version_is_that_of_package() -> None:
    from importlib.metadata import version

    assert CliRunner().invoke(main, ["--version"]).output == f"agl, version {version('agentlightning')}\n"
