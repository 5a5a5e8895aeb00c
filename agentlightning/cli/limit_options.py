"""How much a store takes, as options of `agl store`: one for each field of `Limits`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}


class Size(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - older clicks have none
    """A number of bytes: `65536`, `64KiB`, `16MiB`, `1GiB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+)\s*(|KiB|MiB|GiB)", str(value), re.IGNORECASE)
        if not match:
            self.fail(f"{value!r} is not a size such as 65536, 64KiB, 16MiB or 1GiB", param, ctx)
        return int(match[1]) * _UNITS[match[2].upper()]


COUNT, SECONDS = click.IntRange(min=1), click.FloatRange(min=0, min_open=True)

OPTIONS: dict[str, tuple[str, Any, str, str]] = {
    "body": ("--max-body", Size(), "16MiB", "One request's body."),
    "unpacked": ("--max-unpacked", Size(), "20MiB", "One request's body after decompression."),
    "bodies": ("--max-bodies", Size(), "256MiB", "All bodies that are arriving or worked on, together."),
    "requests": ("--max-requests", COUNT, "4096", "Requests worked on at once."),
    "head": ("--max-head", Size(), "64KiB", "One request's line and headers."),
    "depth": ("--max-depth", click.IntRange(1, 64), "64", "Levels of nesting in JSON."),
    "page": ("--max-page", COUNT, "1000", "Items in one page of a list; clients ask for the next."),
    "head_seconds": ("--head-seconds", SECONDS, "10", "How long headers may take to arrive."),
    "body_seconds": ("--body-seconds", SECONDS, "60", "How long a body may take to arrive."),
}
"""By field: option, type, the default as it is shown, help."""


def limit_options(command: F) -> F:
    """Give a command the options; it gets those that were set by the names of the fields, and None for the others."""
    for field, (option, kind, default, text) in reversed(OPTIONS.items()):
        command = click.option(option, field, type=kind, help=f"{text}  [default: {default}]")(command)
    return command
