"""`agl export`: a run as one page, to send to a colleague."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..store import LightningStore

NEWEST = 1_000


@click.command()
@click.argument("run")
@click.option(
    "--html",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page to write.",
)
@click.option(
    "--newest",
    default=NEWEST,
    show_default=True,
    type=click.IntRange(min=1),
    help="So many rollouts at most, the newest.",
)
@click.option("--token", envvar="AGL_TOKEN", show_envvar=True, help="The store's token, where it has one.")
def command(run: str, html: Path, newest: int, token: str | None) -> None:
    """Write RUN, a database file or the URL of a store, as one page that needs nothing else."""
    from ..errors import AgentLightningError

    try:
        rollouts, of = asyncio.run(_export(run, html, newest, token))
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None
    size = html.stat().st_size / 1_000_000
    click.echo(f"Wrote {html}: {rollouts} of {of} rollouts, {size:.1f} MB.")


async def _export(run: str, html: Path, newest: int, token: str | None) -> tuple[int, int]:
    from ..dashboard.exported import page_of, run_of

    async with _opened(run, token) as store:
        carried, of = await run_of(store, newest)
    await asyncio.to_thread(html.write_text, page_of(carried), encoding="utf-8")
    return len(carried["rollouts"]), of


def _opened(run: str, token: str | None) -> LightningStore:
    from ..store import LightningStoreClient
    from ..store.db.read_only import FinishedRun

    if run.startswith(("http://", "https://")):
        return LightningStoreClient(run.rstrip("/"), token=token)
    return FinishedRun(run)
