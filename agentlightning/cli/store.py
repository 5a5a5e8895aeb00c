"""`agl store`: the store as a server."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import click

from . import store_admin
from .key_value_options import in_environment, pairs
from .limit_options import limit_options

if TYPE_CHECKING:
    from ..store import LightningStore
    from ..store.otlp.export import OtlpExporter
    from ..store.otlp.target import Target
    from ..store.sql import SqlStore

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
@click.option(
    "--runner-token",
    envvar="AGL_RUNNER_TOKEN",
    show_envvar=True,
    help="Let those who send this one carry rollouts out and do nothing else; needs --token.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Without a token: another name than localhost that requests may be addressed to; may be given several times.",
)
@click.option(
    "--keep-keys",
    is_flag=True,
    help="Keep what looks like an API key in spans; it is [redacted] otherwise. AGL_KEEP_KEYS=1 does the same.",
)
@click.option(
    "--export-otlp",
    "targets",
    envvar="AGL_EXPORT_OTLP",
    show_envvar=True,
    multiple=True,
    metavar="[NAME=]URL",
    help="Send all spans on to this OTLP/HTTP receiver (Phoenix, Langfuse, …); may be given several times.",
)
@click.option(
    "--export-headers",
    "headers",
    multiple=True,
    metavar="NAME=VARIABLE",
    help="The headers of that receiver, its key for instance, are in this environment variable: name=value,name=value.",
)
@click.option("--export-past", is_flag=True, help="Send receivers that are new what the store holds already, too.")
@limit_options
@click.option("--log-level", type=click.Choice(LEVELS, case_sensitive=False), default="info", show_default=True)
@click.pass_context
def command(
    context: click.Context,
    host: str,
    port: int,
    db: str,
    durability: Durability,
    token: str | None,
    runner_token: str | None,
    hosts: tuple[str, ...],
    keep_keys: bool,
    targets: tuple[str, ...],
    headers: tuple[str, ...],
    export_past: bool,
    log_level: str,
    **limits: Any,
) -> None:
    """Serve the store, where algorithms and runners meet.

    Prints one line for each request. Everything acknowledged is in the database, so the store may be stopped (Ctrl-C)
    and started again at any time; whoever uses it waits and goes on.
    """
    from ..errors import AgentLightningError
    from ..http.limits import Limits
    from ..logs import setup_logging
    from ..redaction import KEEP
    from ..store import LightningStoreServer, open_store

    if context.invoked_subcommand is not None:
        return
    setup_logging(log_level)
    if keep_keys:
        os.environ[KEEP] = "1"
    try:
        found = _targets(targets, headers)
        store = open_store(db, durability=durability)
        exporter = _exporter(store, found, past=export_past)
        server = LightningStoreServer(
            store,
            host,
            port,
            token=token,
            runner_token=runner_token,
            allowed_hosts=hosts,
            limits=Limits(**{name: limit for name, limit in limits.items() if limit is not None}),
            exporter=exporter,
        )
        server.run_forever(lambda: _greet(server.endpoint, db, durability, found))
        asyncio.run(server.close())
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None


for subcommand in (store_admin.backup, store_admin.check, store_admin.gc, store_admin.stats, store_admin.token):
    command.add_command(subcommand)


def _targets(targets: tuple[str, ...], headers: tuple[str, ...]) -> list[Target]:
    from ..store.otlp.target import Target, headers_in

    found = [Target.named(text) for text in targets]
    said = pairs(headers, "--export-headers")
    if strangers := set(said) - {target.name for target in found}:
        raise click.UsageError(f"there is no --export-otlp named {strangers.pop()!r}")
    return [replace(each, headers=headers_in(in_environment(said, each.name) or "")) for each in found]


def _exporter(store: LightningStore, targets: list[Target], *, past: bool) -> OtlpExporter | None:
    if not targets:
        return None
    from ..store.otlp.export import OtlpExporter

    return OtlpExporter(cast("SqlStore", store), targets, past=past)


def _greet(endpoint: str, db: str, durability: Durability, targets: list[Target]) -> None:
    click.echo(f"Store at {endpoint}, database {_shown(db)}. Ctrl-C ends it.")
    if durability == "process":
        click.echo("Durability process: what is acknowledged survives the end of this process, not a power cut.")
    for target in targets:
        click.echo(f"Spans are sent on to {target.name}, {target.url}")


def _shown(db: str) -> str:
    """What to print of a database's name: where a file really is, and no password."""
    if "://" in db:
        return db.replace(f":{password}@", ":***@") if (password := urlsplit(db).password) else db
    return f"{db} (nothing is kept)" if db.strip(":") == "memory" else str(Path(db).absolute())
