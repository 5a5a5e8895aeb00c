"""`agl dashboard` and `agl export`: show a finished run in a dashboard, or export a run as one HTML page."""

from __future__ import annotations

import asyncio
import webbrowser
from pathlib import Path

import click

from .options import EXISTING_FILE, POSITIVE, echo, errors_as_messages, host_option, port_option, token_option


@click.command()
@click.option(
    "--db", required=True, envvar="AGL_DB", show_envvar=True, type=EXISTING_FILE, help="Database file of the run."
)
@host_option
@port_option(4748)
@token_option("--token", "AGL_TOKEN", "Token that users must enter in the dashboard.")
@click.option("--open", "open_browser", is_flag=True, help="Open the dashboard in a browser.")
def dashboard(db: Path, host: str, port: int, token: str | None, open_browser: bool) -> None:
    """Serve a read-only dashboard for a finished run.

    For a run in progress, open the URL of its store instead.
    """
    from ..logs import setup_logging
    from ..store import LightningStoreServer
    from ..store.factory import ReadOnlyStore

    setup_logging("warning")
    with errors_as_messages():
        server = LightningStoreServer(ReadOnlyStore(db), host, port, token=token)
        echo(f"Dashboard at {server.endpoint}/, database {db}, read-only. Press Ctrl-C to stop.")
        if open_browser:
            webbrowser.open(server.endpoint)
        server.run_forever()
        asyncio.run(server.close())


@click.command()
@click.argument("run")
@click.option("--html", required=True, type=click.Path(dir_okay=False, path_type=Path), help="HTML file to write.")
@click.option("--newest", default=1_000, type=POSITIVE, help="Maximum number of rollouts (newest first).")
@token_option("--token", "AGL_TOKEN", "Token for the store, if it requires one.")
def export(run: str, html: Path, newest: int, token: str | None) -> None:
    """Write RUN, a database file or the URL of a store, as one self-contained HTML page."""
    with errors_as_messages():
        exported, total = asyncio.run(_export(run, html, newest, token))
    size = html.stat().st_size / 1_000_000
    echo(f"Wrote {html}: {exported} of {total} rollouts, {size:.1f} MB.")


async def _export(run: str, html: Path, newest: int, token: str | None) -> tuple[int, int]:
    from ..dashboard.exported import collect_run, render_page
    from ..private_files import create_private_file
    from ..store import LightningStoreClient
    from ..store.factory import ReadOnlyStore

    is_url = run.startswith(("http://", "https://"))
    async with LightningStoreClient(run.rstrip("/"), token=token) if is_url else ReadOnlyStore(run) as store:
        collected, total = await collect_run(store, newest)
    create_private_file(html)
    await asyncio.to_thread(html.write_text, render_page(collected), encoding="utf-8")
    return len(collected["rollouts"]), total
