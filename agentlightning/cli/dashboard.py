"""`agl dashboard`: serve the dashboard of a finished run, read-only."""

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
    help="Database file of the run.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; any other requires --token."
)
@click.option("--port", default=4748, show_default=True, help="Port to listen on.")
@click.option("--token", envvar="AGL_TOKEN", show_envvar=True, help="Token that clients must send.")
@click.option("--open", "open_browser", is_flag=True, help="Open the dashboard in a browser.")
def command(db: str, host: str, port: int, token: str | None, open_browser: bool) -> None:
    """Serve the dashboard of a finished run, read-only.

    For a run in progress, open the URL of its store instead.
    """
    from ..errors import AgentLightningError
    from ..logs import setup_logging
    from ..store import LightningStoreServer
    from ..store.factory import ReadOnlyStore

    setup_logging("warning")
    try:
        server = LightningStoreServer(ReadOnlyStore(db), host, port, token=token)
        click.echo(f"Dashboard at {server.endpoint}/, database {db}, read-only. Press Ctrl-C to stop.")
        if open_browser:
            webbrowser.open(server.endpoint)
        server.run_forever()
        asyncio.run(server.close())
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None
