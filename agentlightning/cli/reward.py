"""`agl reward`: report the reward of a program that runs as an agent."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("reward", type=float)
def command(reward: float) -> None:
    """Report REWARD from a program that was started by `agl run` or by a command agent.

    If a program reports several rewards, the last value wins.
    """
    file = os.environ.get("AGL_REWARD_FILE")
    if file is None:
        raise click.ClickException("AGL_REWARD_FILE is not set: use agl reward in a program started by agl run")
    if not math.isfinite(reward):
        raise click.ClickException(f"a reward must be a finite number, not {reward}")
    Path(file).write_text(json.dumps(reward))
