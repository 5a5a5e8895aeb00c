"""The command-line interface, `agl …`.

Each subcommand is a module of the same name with a click command called `command`. The modules are imported when
needed, and import heavy libraries only inside their functions, so `agl --help` responds immediately.
"""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = (
    "dashboard",
    "demo",
    "export",
    "llm",
    "proxy",
    "regrade",
    "replay",
    "resume",
    "reward",
    "run",
    "runs",
    "store",
    "train",
)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return import_module(f".{cmd_name}", __name__).command if cmd_name in COMMANDS else None


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="agentlightning", prog_name="agl")
def main() -> None:
    """Agent Lightning: make any AI agent better without rewriting it."""
