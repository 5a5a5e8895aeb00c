"""`agl reward`: what a program that is an agent says it was worth."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("reward", type=float)
def command(reward: float) -> None:
    """Say, inside a program that `agl run` or a command agent has started, what its reward is.

    The last word counts.
    """
    where = os.environ.get("AGL_REWARD_FILE")
    if where is None:
        raise click.ClickException("no agent is running here: agl reward is for programs started by agl run")
    if not math.isfinite(reward):
        raise click.ClickException(f"a reward is a finite number, not {reward}")
    Path(where).write_text(json.dumps(reward))
