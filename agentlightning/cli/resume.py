"""`agl resume`: continue a run that was stopped or killed."""

from __future__ import annotations

import os

import click


@click.command()
@click.argument("run_dir")
def command(run_dir: str) -> None:
    """Continue the run in RUN_DIR by starting its command again.

    Finished rollouts and completed steps of the algorithm are reused, not repeated.
    """
    from ..trainer.run_folder import RESUME_VARIABLE, RunFolder

    folder = RunFolder(run_dir)
    config = folder.config()
    if not config:
        raise click.ClickException(f"there is no run in {folder.path}; list the runs with agl runs")
    result = folder.result()
    if result is not None and result.status == "finished":
        raise click.ClickException(
            f"the run in {folder.path} has already finished; to see its result, use agl runs show {run_dir}"
        )
    command = config["command"]
    os.environ[RESUME_VARIABLE] = str(folder.path)
    os.chdir(config["working_directory"])
    os.execvp(command[0], command)
