"""Generate docs/reference/command-line.md from the `--help` texts of the `agl` commands.

    python -m docs.command_line

Run this after you change a command; a test fails if the page is outdated.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from agentlightning.cli import main

PAGE = Path(__file__).parent / "reference/command-line.md"
WIDTH = 100


def page() -> str:
    """Return the content of the page."""
    return "\n".join([_INTRODUCTION, *_sections(main, click.Context(main, info_name="agl", **main.context_settings))])


_INTRODUCTION = """\
# Command line

This page shows the `--help` text of every command. If you can also set an option in the [environment](environment.md),
its text names the variable. A command that fails prints the reason in one line and exits with 1, or with 2 if its
arguments are invalid. Press Ctrl-C to stop any command cleanly.
"""


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    yield from (f"## {context.command_path}", "", "```console", f"$ {context.command_path} --help", _help(context))
    yield from ("```", "")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            subcommand = command.get_command(context, name)
            assert subcommand
            if not subcommand.hidden:
                yield from _sections(subcommand, click.Context(subcommand, info_name=name, parent=context))


def _help(context: click.Context) -> str:
    context.terminal_width = context.max_content_width = WIDTH
    return "\n".join(line.rstrip() for line in context.get_help().splitlines())


if __name__ == "__main__":
    PAGE.write_text(page())
