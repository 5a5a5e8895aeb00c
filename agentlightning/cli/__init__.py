"""The command-line interface, `agl …`.

Each command's module is imported only when it is needed. The modules import heavy libraries only inside functions, so
that `agl --help` responds immediately.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

COMMANDS = {
    "dashboard": "dashboard",
    "demo": "demo",
    "export": "dashboard",
    "llm": "llm",
    "proxy": "proxy",
    "regrade": "replay",
    "replay": "replay",
    "resume": "runs",
    "reward": "run",
    "run": "run",
    "runs": "runs",
    "store": "store",
    "train": "train",
}
"""Maps each command to the module that implements it, in a function with the same name as the command."""


class _LazyGroup(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        from ..logs import escape_controls

        try:
            return super().invoke(ctx)
        except click.ClickException as error:  # its message may contain text from a store or a model
            message = escape_controls(error.message, keep_lines=True)
            error.message = message  # pyright: ignore[reportAttributeAccessIssue]
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if module := COMMANDS.get(cmd_name):
            return getattr(import_module(f".{module}", __name__), cmd_name)
        return None


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="agentlightning", prog_name="agl")
def main() -> None:
    """Agent Lightning: make any AI agent better without rewriting it."""
    from ..logs import escape_tracebacks

    escape_tracebacks()
