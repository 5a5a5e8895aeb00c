"""`agl store`: serve the store over HTTP, and administer its database."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import re
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import urlsplit

import click

from .options import (
    LIMIT_OPTIONS,
    database_option,
    echo,
    errors_as_messages,
    host_option,
    limit_options,
    log_level_option,
    parse_pairs,
    port_option,
    read_variable,
    token_option,
)

if TYPE_CHECKING:
    from ..store.otlp.export import OtlpExporter, OtlpTarget
    from ..store.sql import SqlStore

Durability = Literal["full", "process"]

ANNOUNCED_BYTES: Final = 100 * 2**20
"""If a database has at least this size in bytes, operations may be slow, so a message is printed before they start."""

_SERVER_SCHEMES: Final = ("http", "https", "postgresql", "postgres")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_file_option = database_option("Database file.")
_database_option = database_option("Database: a file or postgresql://…")


@click.group(invoke_without_command=True)
@host_option
@port_option(4747)
@database_option("Database: a file, memory: (nothing is saved), sqlite:///… or postgresql://…")
@click.option(
    "--durability",
    type=click.Choice(("full", "process")),
    default="full",
    help="full: acknowledged data survives a power cut; process: it survives only a crash of this process.",
)
@token_option("--token", "AGL_TOKEN", "Require this token from all clients.")
@token_option(
    "--runner-token",
    "AGL_RUNNER_TOKEN",
    "Second token, for runners; it permits only executing rollouts. Requires an admin token too.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Without a token: host name to accept in requests, in addition to localhost. Repeatable.",
)
@click.option(
    "--keep-keys",
    is_flag=True,
    help="Do not replace API keys in spans with [redacted]. AGL_KEEP_KEYS=1 has the same effect.",
)
@click.option(
    "--export-otlp",
    "targets",
    envvar="AGL_EXPORT_OTLP",
    show_envvar=True,
    multiple=True,
    metavar="[NAME=]URL",
    help="Export all spans to this OTLP/HTTP receiver (Phoenix, Langfuse, …). Repeatable.",
)
@click.option(
    "--export-headers",
    "headers",
    multiple=True,
    metavar="NAME=VARIABLE",
    help="Environment variable with HTTP headers for receiver NAME, as name=value,name=value. Repeatable.",
)
@click.option(
    "--export-past", is_flag=True, help="Also export existing spans to receivers that are new to this database."
)
@limit_options(LIMIT_OPTIONS)
@log_level_option
@click.pass_context
def store(
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

    Prints the store's URL, which is also the URL of the dashboard, and logs one line per request. You can stop the
    store with Ctrl-C and restart it at any time: acknowledged data is saved, and clients wait until the store is
    available again.
    """
    from ..http.limits import Limits
    from ..logs import setup_logging
    from ..redaction import KEEP_KEYS_VARIABLE
    from ..store import LightningStoreServer, open_store

    if context.invoked_subcommand is not None:
        return
    setup_logging(log_level)
    faulthandler.enable(2)  # print a traceback if a C library crashes, for example when memory runs out
    if keep_keys:
        os.environ[KEEP_KEYS_VARIABLE] = "1"
    with errors_as_messages():
        receivers = _targets(targets, headers)
        opened = open_store(db, durability=durability)
        server = LightningStoreServer(
            opened,
            host,
            port,
            token=token,
            runner_token=runner_token,
            allowed_hosts=hosts,
            limits=Limits(**{name: limit for name, limit in limits.items() if limit is not None}),
            exporter=_make_exporter(cast("SqlStore", opened), receivers, past=export_past) if receivers else None,
        )
        server.run_forever(lambda: _announce(server.endpoint, db, durability, receivers))
        asyncio.run(server.close())


@store.command()
@click.argument("file", type=click.Path(path_type=Path))
@_file_option
def backup(file: Path, db: str) -> None:
    """Copy the database to FILE, even while its store is running.

    The copy contains everything that the store had acknowledged before the backup started. FILE must not exist yet. It
    is created only when the copy is complete and on disk.
    """
    from ..store.maintenance import backup as copy

    source = _database_file(db, hint="use pg_dump for PostgreSQL")
    with errors_as_messages():
        _announce_action("Copying", source)
        size = copy(source, file)
    echo(f"{file}: {size / 2**20:.1f} MB")


@store.command()
@_file_option
def check(db: str) -> None:
    """Check the database file for corruption and for inconsistent rows.

    Does not change the database. Prints each problem, and exits with status 1 if there are any.
    """
    from ..store.maintenance import check_database

    source = _database_file(db, hint="use pg_amcheck for PostgreSQL")
    with errors_as_messages():
        _announce_action("Checking", source)
        findings = check_database(source)
    for finding in findings:
        echo(finding, err=True)
    if findings:
        raise click.ClickException(f"{source} is damaged: {len(findings)} findings")
    echo(f"{source} is sound.")


@store.command()
@_database_option
def stats(db: str) -> None:
    """Print the number of rollouts, spans and other objects in a database.

    You can run the command while the store is running.
    """
    with errors_as_messages():
        counts = asyncio.run(_statistics(db))
    size = {} if _is_server(db) else {"size on disk": _size(_database_file(db))}
    lines = size | {kind.replace("_", " "): _format_count(count) for kind, count in counts.items()}
    for name, text in lines.items():
        echo(f"{name:<{max(map(len, lines))}}  {text}")


@store.command()
@_database_option
@click.option(
    "--older-than",
    required=True,
    metavar="AGE",
    help="Minimum time since a rollout finished, such as 90m, 12h or 30d.",
)
@click.option("--dry-run", is_flag=True, help="Do not delete anything; only print how many rollouts would be deleted.")
def gc(db: str, older_than: str, dry_run: bool) -> None:
    """Delete rollouts that finished more than AGE ago, including their attempts and spans.

    Rollouts are deleted only by this command, and resources are never deleted. You can run the command while the store
    is running, and interrupt it at any time: each rollout is deleted completely or not at all. The database file does
    not shrink, but the store reuses the freed space.
    """
    with errors_as_messages():
        count = asyncio.run(_collect_garbage(db, _seconds(older_than), dry_run=dry_run))
    echo(f"{count} rollouts {'would be' if dry_run else 'were'} deleted.")


@store.command()
@click.option(
    "--scope",
    type=click.Choice(("admin", "runner")),
    default="admin",
    help="Permissions: everything (admin), or only executing rollouts (runner).",
)
def token(scope: str) -> None:
    """Print a new random 256-bit token for `agl store`.

    Put an admin token into AGL_TOKEN or a file for --token-file, and a runner token into AGL_RUNNER_TOKEN or a file for
    --runner-token-file. Tokens on a command line (--token, --runner-token) are visible to other users of the machine.
    """
    echo(f"agl-{scope}-{secrets.token_urlsafe(32)}")


def _targets(targets: tuple[str, ...], headers: tuple[str, ...]) -> list[OtlpTarget]:
    if not targets and not headers:
        return []
    from ..store.otlp.export import OtlpTarget, parse_headers

    receivers = [OtlpTarget.parse(text) for text in targets]
    variables = parse_pairs(headers, "--export-headers")
    if unknown := set(variables) - {target.name for target in receivers}:
        raise click.UsageError(f"--export-headers names {unknown.pop()!r}, but no --export-otlp NAME=URL does")
    return [replace(each, headers=parse_headers(read_variable(variables, each.name) or "")) for each in receivers]


def _make_exporter(opened: SqlStore, receivers: list[OtlpTarget], *, past: bool) -> OtlpExporter:
    from ..store.otlp.export import OtlpExporter  # loads an HTTP client, which a store without receivers does not need

    return OtlpExporter(opened, receivers, past=past)


def _announce(endpoint: str, db: str, durability: Durability, targets: list[OtlpTarget]) -> None:
    echo(f"Store at {endpoint}, database {_display_name(db)}. Press Ctrl-C to stop.")
    if durability == "process":
        echo(
            "Durability is set to process: acknowledged data survives a crash of this process, but not a power failure."
        )
    for target in targets:
        echo(f"Spans are forwarded to {target.name}, {target.url}")


def _display_name(db: str) -> str:
    """Return the database for display: the absolute path of a file, or a URL with its password hidden."""
    if "://" in db:
        return db.replace(f":{password}@", ":***@") if (password := urlsplit(db).password) else db
    return f"{db} (not persistent)" if db.strip(":") == "memory" else str(Path(db).absolute())


async def _statistics(db: str) -> Any:
    from ..store import open_store
    from ..store.factory import ReadOnlyStore

    async with open_store(db) if _is_server(db) else ReadOnlyStore(_database_file(db)) as store:
        return await store.statistics()


async def _collect_garbage(db: str, age: float, *, dry_run: bool) -> int:
    from ..store.factory import open_for_maintenance
    from ..store.maintenance import collect_garbage

    store = open_for_maintenance(db)
    async with store:
        return await collect_garbage(store, age, dry_run=dry_run, on_progress=_print_progress)


def _format_count(count: Any) -> str:
    by_status = cast("dict[str, int]", count) if isinstance(count, dict) else {"": int(count)}
    return ", ".join(f"{number} {status}".strip() for status, number in by_status.items()) or "none"


def _announce_action(action: str, source: Path) -> None:
    if source.stat().st_size >= ANNOUNCED_BYTES:
        echo(f"{action} {source} ({_size(source)}) …", err=True)


def _print_progress(deleted: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{deleted} of {total} rollouts deleted", err=True, nl=deleted >= total)


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MB"


def _is_server(db: str) -> bool:
    return urlsplit(db).scheme in _SERVER_SCHEMES


def _database_file(db: str, *, hint: str = "pass a file") -> Path:
    if _is_server(db) or db.strip(":") == "memory":
        raise click.ClickException(f"{urlsplit(db).scheme or db} is not a database file: {hint}")
    path = Path(db.removeprefix("sqlite:///").removeprefix("sqlite:"))
    if not path.exists():
        raise click.ClickException(f"there is no database {path.absolute()}")
    return path


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", age)
    if not match:
        raise click.BadParameter(f"{age!r} is not an age such as 90m, 12h or 30d", param_hint="--older-than")
    return float(match[1]) * _UNITS[match[2]]
