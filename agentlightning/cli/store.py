"""`agl store`: the store as a server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import click

from . import store_care

Durability = Literal["full", "process"]

LEVELS = ("debug", "info", "warning", "error")


@click.group(invoke_without_command=True)
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
@click.option(
    "--durability",
    type=click.Choice(("full", "process")),
    default="full",
    show_default=True,
    help="What is acknowledged survives a power cut (full), or only the end of this process.",
)
@click.option("--token", envvar="AGL_TOKEN", show_envvar=True, help="Serve only those who send this token.")
@click.option("--log-level", type=click.Choice(LEVELS, case_sensitive=False), default="info", show_default=True)
@click.pass_context
def command(
    context: click.Context, host: str, port: int, db: str, durability: Durability, token: str | None, log_level: str
) -> None:
    """Serve the store, where algorithms and runners meet.

    Prints one line for each request. Everything acknowledged is in the database, so the store may be stopped (Ctrl-C)
    and started again at any time; whoever uses it waits and goes on.
    """
    from ..errors import AgentLightningError
    from ..logs import setup_logging
    from ..store import LightningStoreServer, open_store

    if context.invoked_subcommand is not None:
        return
    setup_logging(log_level)
    try:
        server = LightningStoreServer(open_store(db, durability=durability), host, port, token=token)
        server.run_forever(lambda: _greet(server.endpoint, db, durability))
        asyncio.run(server.close())
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None


for subcommand in (store_care.backup, store_care.check, store_care.gc, store_care.stats, store_care.token):
    command.add_command(subcommand)


def _greet(endpoint: str, db: str, durability: Durability) -> None:
    click.echo(f"Store at {endpoint}, database {_shown(db)}. Ctrl-C ends it.")
    if durability == "process":
        click.echo("Durability process: what is acknowledged survives the end of this process, not a power cut.")


def _shown(db: str) -> str:
    """What to print of a database's name: where a file really is, and no password."""
    if "://" in db:
        return db.replace(f":{password}@", ":***@") if (password := urlsplit(db).password) else db
    return f"{db} (nothing is kept)" if db.strip(":") == "memory" else str(Path(db).absolute())
