"""Options that say something of a thing by its name: `--key NAME=VARIABLE`."""

from __future__ import annotations

import os

import click


def pairs(given: tuple[str, ...], option: str) -> dict[str, str]:
    """What was said, by name."""
    found: dict[str, str] = {}
    for text in given:
        name, mark, value = text.partition("=")
        if not (name and mark and value):
            raise click.UsageError(f"{option} takes NAME=VALUE, not {text!r}")
        found[name] = value
    return found


def in_environment(variables: dict[str, str], name: str) -> str | None:
    """The value of the variable that is named for `name`, so that no secret stands on a command line."""
    if name not in variables:
        return None
    if not (value := os.environ.get(variables[name])):
        raise click.UsageError(f"the environment variable {variables[name]}, named for {name!r}, is not set")
    return value
