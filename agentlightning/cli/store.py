"""`agl store`: the store as a server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import click

LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need a token.")
@click.option("--port", default=4747, show_default=True, help="Port to listen on.")
@click.option(
    "--db",
    envvar="AGL_DB",
    default="./agl.db",
    show_default=True,
    show_envvar=True,
    metavar="DATABASE",
    help="A file, memory:, sqlite:///… or postgresql://…",
)
@click.option("--token", envvar="AGL_TOKEN", show_envvar=True, help="Serve only those who send this token.")
@click.option("--log-level", type=click.Choice(LEVELS, case_sensitive=False), default="info", show_default=True)
def command(host: str, port: int, db: str, token: str | None, log_level: str) -> None:
    """Serve the store, where algorithms and runners meet.

    Prints one line for each request. Everything acknowledged is in the database, so the store may be stopped (Ctrl-C)
    and started again at any time; whoever uses it waits and goes on.
    """
    from ..errors import AgentLightningError
    from ..logs import setup_logging
    from ..store import LightningStoreServer, open_store

    setup_logging(log_level)
    try:
        server = LightningStoreServer(open_store(db), host, port, token=token)
        click.echo(f"Store at {server.endpoint}, database {_shown(db)}. Ctrl-C ends it.")
        server.run_forever()
        asyncio.run(server.close())
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None


def _shown(db: str) -> str:
    """What to print of a database's name: where a file really is, and no password."""
    if "://" in db:
        return db.replace(f":{password}@", ":***@") if (password := urlsplit(db).password) else db
    return f"{db} (nothing is kept)" if db.strip(":") == "memory" else str(Path(db).absolute())
