"""`agl dashboard`: a finished run, to be looked at in a browser."""

from __future__ import annotations

import asyncio
import webbrowser

import click


@click.command()
@click.option(
    "--db",
    required=True,
    envvar="AGL_DB",
    show_envvar=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="The run's database.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need a token.")
@click.option("--port", default=4748, show_default=True, help="Port to listen on.")
@click.option("--token", envvar="AGL_TOKEN", show_envvar=True, help="Show it only to those who know this token.")
@click.option("--open", "open_browser", is_flag=True, help="Open it in the browser.")
def command(db: str, host: str, port: int, token: str | None, open_browser: bool) -> None:
    """Look at a finished run without changing anything.

    A run that still goes on is looked at where it goes on: the store's own URL is its dashboard.
    """
    from ..errors import AgentLightningError
    from ..logs import setup_logging
    from ..store import LightningStoreServer
    from ..store.db.read_only import FinishedRun

    setup_logging("warning")
    try:
        server = LightningStoreServer(FinishedRun(db), host, port, token=token)
        click.echo(f"Dashboard at {server.endpoint}/, database {db}, read-only. Ctrl-C ends it.")
        if open_browser:
            webbrowser.open(server.endpoint)
        server.run_forever()
        asyncio.run(server.close())
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None
