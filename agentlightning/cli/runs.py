"""`agl runs`: what was run here, and what came of it."""

from __future__ import annotations

import click


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List the runs in runs/, or show one of them."""
    if context.invoked_subcommand is None:
        context.invoke(list_runs)


@command.command("list")
@click.argument("folder", default="runs")
def list_runs(folder: str = "runs") -> None:
    """All runs in FOLDER, the latest first."""
    from ..trainer.run_folder import folders

    shown = [(run.name, run.config(), run.result()) for run in folders(folder)]
    if not shown:
        click.echo(f"no runs in {folder}/")
    for name, config, result in shown:
        status = result.status if result else "unfinished"
        mean = "" if result is None or result.mean_reward is None else f"mean reward {result.mean_reward:.3f}"
        done = sum(result.counts.values()) if result else 0
        click.echo(f"{name:<44} {status:<10} {config.get('algorithm', '?'):<20} {done:>6} rollouts  {mean}".rstrip())


@command.command("show")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print result.json.")
def show_run(run: str, as_json: bool) -> None:
    """How RUN, a folder or a name in runs/, was started, and what came of it."""
    from pathlib import Path

    from ..trainer.display import failed
    from ..trainer.run_folder import RUNS, RunFolder

    found = next((folder for path in (run, f"{RUNS}/{run}") if (folder := RunFolder(Path(path))).exists), None)
    if found is None:
        raise click.ClickException(f"there is no run in {run}/ nor in {RUNS}/{run}/")
    result = found.result()
    if as_json:
        click.echo("null" if result is None else result.model_dump_json(indent=2))
        return
    for name, value in found.config().items():
        click.echo(f"{name}: {' '.join(value) if isinstance(value, list) else value}")  # pyright: ignore[reportUnknownArgumentType]
    if result is None:
        click.echo(f"It has not ended. If it was killed: agl resume {found.path}")
        return
    click.echo(f"{result.status} after {result.seconds:.1f} s: {result.counts}, mean reward {result.mean_reward}")
    for line in failed(result):
        click.echo(line)
    if result.error:
        click.echo(result.error)
    if summary := result.report.get("summary"):
        click.echo(summary)
    for name, resource in (result.best_resources or {}).items():
        click.echo(f"best {name}: {resource}")
