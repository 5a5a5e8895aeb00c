"""`agl runs` and `agl resume`: list the runs in a folder, show their results, and continue a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..logs import ascii_json
from .options import echo

if TYPE_CHECKING:
    from ..trainer.result import RunResult
    from ..trainer.run_folder import RunFolder


@click.group(invoke_without_command=True)
@click.pass_context
def runs(context: click.Context) -> None:
    """List the runs in a folder, or show one run."""
    if context.invoked_subcommand is None:
        context.invoke(list_runs)


@runs.command("list")
@click.argument("folder", default="runs")
def list_runs(folder: str = "runs") -> None:
    """List the runs in FOLDER (by default runs/), newest first."""
    from ..trainer.run_folder import folders

    found = list(folders(folder))
    if not found:
        echo(f"no runs in {folder}/")
    for run in found:
        echo(_summary_line(run.name, run.config(), run.result()))


@runs.command("show")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print the content of result.json instead.")
def show_run(run: str, as_json: bool) -> None:
    """Show the command, settings and result of RUN.

    RUN is a folder or the name of a run in runs/.
    """
    from ..trainer.run_folder import RUNS, RunFolder

    folder = next((each for path in (run, f"{RUNS}/{run}") if (each := RunFolder(Path(path))).exists), None)
    if folder is None:
        raise click.ClickException(f"there is no run in {run}/ or {RUNS}/{run}/")
    result = folder.result()
    if as_json:
        click.echo("null" if result is None else ascii_json(json.loads(result.model_dump_json()), indent=2))
        return
    for line in _details(folder, result):
        echo(line, keep_lines=True)


@click.command()
@click.argument("run_dir")
def resume(run_dir: str) -> None:
    """Continue the run in RUN_DIR by starting its command again.

    RUN_DIR is the folder of the run, for example runs/20261122-211512-apo. Finished rollouts and completed steps of the
    algorithm are not repeated.
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


def _summary_line(name: str, config: dict[str, Any], result: RunResult | None) -> str:
    status = result.status if result else "unfinished"
    mean = "" if result is None or result.mean_reward is None else f"mean reward {result.mean_reward:.3f}"
    rollouts = sum(result.counts.values()) if result else 0
    return f"{name:<44} {status:<10} {config.get('algorithm', '?'):<20} {rollouts:>6} rollouts  {mean}".rstrip()


def _details(folder: RunFolder, result: RunResult | None) -> list[str]:
    from ..trainer.display import failure_lines

    lines = [
        f"{name}: {' '.join(value) if isinstance(value, list) else value}"  # pyright: ignore[reportUnknownArgumentType]
        for name, value in folder.config().items()
    ]
    if result is None:
        return [*lines, f"The run has no result yet. If it was killed, continue it: agl resume {folder.path}"]
    lines.append(f"{result.status} after {result.seconds:.1f} s: {result.counts}, mean reward {result.mean_reward}")
    lines += [*failure_lines(result), result.error or "", str(result.report.get("summary", ""))]
    lines += [f"best {name}: {resource}" for name, resource in (result.best_resources or {}).items()]
    return [line for line in lines if line]
