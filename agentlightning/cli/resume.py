"""`agl resume`: go on with a run that was stopped or killed."""

from __future__ import annotations

import click


@click.command()
@click.argument("run_dir")
def command(run_dir: str) -> None:
    """Start the command of RUN_DIR again, in its place, so that it goes on where it was.

    Finished rollouts and the algorithm's finished steps are found again, and not paid for twice.
    """
    import os

    from ..trainer.run_folder import RESUME_VARIABLE, RunFolder

    folder = RunFolder(run_dir)
    config = folder.config()
    if not config:
        raise click.ClickException(f"there is no run in {folder.path}")
    result = folder.result()
    if result is not None and result.status == "finished":
        raise click.ClickException(f"{folder.path} has come to its end already: agl runs show {run_dir}")
    command = config["command"]
    os.environ[RESUME_VARIABLE] = str(folder.path)
    os.chdir(config["working_directory"])
    os.execvp(command[0], command)
