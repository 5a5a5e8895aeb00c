"""`agl export`: write a run as one HTML page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..store import LightningStore


@click.command()
@click.argument("run")
@click.option(
    "--html",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML file to write.",
)
@click.option(
    "--newest",
    default=1_000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Maximum number of rollouts (newest first).",
)
@click.option("--token", envvar="AGL_TOKEN", show_envvar=True, help="Token of the store, if it requires one.")
def command(run: str, html: Path, newest: int, token: str | None) -> None:
    """Write RUN, a database file or the URL of a store, as one self-contained HTML page."""
    from ..errors import AgentLightningError

    try:
        exported, total = asyncio.run(_export(run, html, newest, token))
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None
    size = html.stat().st_size / 1_000_000
    click.echo(f"Wrote {html}: {exported} of {total} rollouts, {size:.1f} MB.")


async def _export(run: str, html: Path, newest: int, token: str | None) -> tuple[int, int]:
    from ..dashboard.exported import collect_run, render_page

    async with _open(run, token) as store:
        collected, total = await collect_run(store, newest)
    await asyncio.to_thread(html.write_text, render_page(collected), encoding="utf-8")
    return len(collected["rollouts"]), total


def _open(run: str, token: str | None) -> LightningStore:
    from ..store import LightningStoreClient
    from ..store.factory import ReadOnlyStore

    if run.startswith(("http://", "https://")):
        return LightningStoreClient(run.rstrip("/"), token=token)
    return ReadOnlyStore(run)
