"""`agl store`: serve the store over HTTP."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import click

from . import store_admin
from .options import database_option, errors_as_messages, limit_options, log_level_option, parse_pairs, read_variable

if TYPE_CHECKING:
    from ..store import LightningStore
    from ..store.otlp.export import OtlpExporter, OtlpTarget
    from ..store.sql import SqlStore

Durability = Literal["full", "process"]


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", help="Address to listen on; any other requires --token.")
@click.option("--port", default=4747, help="Port to listen on; 0 selects a free one.")
@database_option("Database: a file, memory:, sqlite:///… or postgresql://…")
@click.option(
    "--durability",
    type=click.Choice(("full", "process")),
    default="full",
    help="Acknowledged data survives a power failure (full), or only a crash of this process (process).",
)
@click.option("--token", envvar="AGL_TOKEN", show_envvar=True, help="Require this token from all clients.")
@click.option(
    "--runner-token",
    envvar="AGL_RUNNER_TOKEN",
    show_envvar=True,
    help="Additional token that only permits running rollouts; requires --token.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Host name to accept in requests besides localhost, if there is no token. Repeatable.",
)
@click.option(
    "--keep-keys",
    is_flag=True,
    help="Store API keys in spans unchanged instead of as [redacted]. AGL_KEEP_KEYS=1 has the same effect.",
)
@click.option(
    "--export-otlp",
    "targets",
    envvar="AGL_EXPORT_OTLP",
    show_envvar=True,
    multiple=True,
    metavar="[NAME=]URL",
    help="Forward all spans to this OTLP/HTTP receiver (Phoenix, Langfuse, …). Repeatable.",
)
@click.option(
    "--export-headers",
    "headers",
    multiple=True,
    metavar="NAME=VARIABLE",
    help="Environment variable with HTTP headers for receiver NAME, e.g. its API key: name=value,name=value.",
)
@click.option("--export-past", is_flag=True, help="Also send the spans stored so far to new receivers.")
@limit_options
@log_level_option
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
    """Serve the store that connects algorithms and runners.

    Logs one line per request. All acknowledged data is in the database, so the store can be stopped (Ctrl-C) and
    restarted at any time; its clients wait until it is back and then continue.
    """
    from ..http.limits import Limits
    from ..logs import setup_logging
    from ..redaction import KEEP_KEYS_VARIABLE
    from ..store import LightningStoreServer, open_store

    if context.invoked_subcommand is not None:
        return
    setup_logging(log_level)
    if keep_keys:
        os.environ[KEEP_KEYS_VARIABLE] = "1"
    with errors_as_messages():
        receivers = _targets(targets, headers)
        store = open_store(db, durability=durability)
        server = LightningStoreServer(
            store,
            host,
            port,
            token=token,
            runner_token=runner_token,
            allowed_hosts=hosts,
            limits=Limits(**{name: limit for name, limit in limits.items() if limit is not None}),
            exporter=_exporter(store, receivers, past=export_past),
        )
        server.run_forever(lambda: _announce(server.endpoint, db, durability, receivers))
        asyncio.run(server.close())


for subcommand in (store_admin.backup, store_admin.check, store_admin.gc, store_admin.stats, store_admin.token):
    command.add_command(subcommand)


def _targets(targets: tuple[str, ...], headers: tuple[str, ...]) -> list[OtlpTarget]:
    from ..store.otlp.export import OtlpTarget, parse_headers

    receivers = [OtlpTarget.parse(text) for text in targets]
    variables = parse_pairs(headers, "--export-headers")
    if unknown := set(variables) - {target.name for target in receivers}:
        raise click.UsageError(f"there is no --export-otlp named {unknown.pop()!r}")
    return [replace(each, headers=parse_headers(read_variable(variables, each.name) or "")) for each in receivers]


def _exporter(store: LightningStore, targets: list[OtlpTarget], *, past: bool) -> OtlpExporter | None:
    if not targets:
        return None
    from ..store.otlp.export import OtlpExporter

    return OtlpExporter(cast("SqlStore", store), targets, past=past)


def _announce(endpoint: str, db: str, durability: Durability, targets: list[OtlpTarget]) -> None:
    click.echo(f"Store at {endpoint}, database {_display_name(db)}. Press Ctrl-C to stop.")
    if durability == "process":
        click.echo(
            "Durability is set to process: acknowledged data survives a crash of this process, but not a power failure."
        )
    for target in targets:
        click.echo(f"Spans are forwarded to {target.name}, {target.url}")


def _display_name(db: str) -> str:
    """Return the absolute path of a database file, or its URL without the password."""
    if "://" in db:
        return db.replace(f":{password}@", ":***@") if (password := urlsplit(db).password) else db
    return f"{db} (not persistent)" if db.strip(":") == "memory" else str(Path(db).absolute())
