"""Writes docs/reference/command-line.md: what each `agl` command says of itself.

    python -m docs.command_line

Run it after changing a command; a test tells when the page is behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from agentlightning.cli import main

PAGE = Path(__file__).parent / "reference/command-line.md"
WIDTH = 100


def page() -> str:
    """The page, as it should stand."""
    return "\n".join([_INTRODUCTION, *_sections(main, click.Context(main, info_name="agl", **main.context_settings))])


_INTRODUCTION = """\
# The command line

Every command as it tells of itself with `--help`. Options that can also be set in the
[environment](environment.md) name their variable. A command that fails says why in one line and exits with 1, or with
2 where it was called wrongly; Ctrl-C ends each of them cleanly.
"""


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    yield from (f"## {context.command_path}", "", "```console", f"$ {context.command_path} --help", _help(context))
    yield from ("```", "")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below
            if not below.hidden:
                yield from _sections(below, click.Context(below, info_name=name, parent=context))


def _help(context: click.Context) -> str:
    context.terminal_width = context.max_content_width = WIDTH
    return "\n".join(line.rstrip() for line in context.get_help().splitlines())


if __name__ == "__main__":
    PAGE.write_text(page())
