"""`agl store backup | check | stats | gc | token`: administration of a store's database."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import click

from .options import database_option, errors_as_messages

ANNOUNCED_BYTES: Final = 100 * 2**20
"""Minimum database size in bytes for which operations are slow enough to announce them first."""

_SERVER_SCHEMES: Final = ("http", "https", "postgresql", "postgres")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_file_option = database_option("Database file.")
_database_option = database_option("Database: a file or postgresql://…")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@_file_option
def backup(file: Path, db: str) -> None:
    """Copy the database to FILE, even while its store is running.

    The copy contains everything acknowledged before the backup started. FILE must not exist yet; it appears only when
    the copy is complete and on disk.
    """
    from ..store.db.backup import backup as copy

    source = _database_file(db, hint="use pg_dump for PostgreSQL")
    with errors_as_messages():
        _announce("Copying", source)
        size = copy(source, file)
    click.echo(f"{file}: {size / 2**20:.1f} MB")


@click.command()
@_file_option
def check(db: str) -> None:
    """Check the database file for corruption and for inconsistent rows.

    Does not change the database. Lists each finding and exits with 1 if there are any.
    """
    from ..store.maintenance import check_database

    source = _database_file(db, hint="use pg_amcheck for PostgreSQL")
    with errors_as_messages():
        _announce("Checking", source)
        findings = check_database(source)
    for finding in findings:
        click.echo(finding, err=True)
    if findings:
        raise click.ClickException(f"{source} is damaged: {len(findings)} findings")
    click.echo(f"{source} is sound.")


@click.command()
@_database_option
def stats(db: str) -> None:
    """Print statistics about the contents of a database, even while its store is running."""
    with errors_as_messages():
        counts = asyncio.run(_statistics(db))
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    if not _is_server(db):
        table.add_row("size on disk", _size(_database_file(db)))
    for kind, count in counts.items():
        table.add_row(kind.replace("_", " "), _format_count(count))
    Console().print(table)


@click.command()
@_database_option
@click.option(
    "--older-than",
    required=True,
    metavar="AGE",
    help="Minimum time since the end of a rollout, such as 90m, 12h or 30d.",
)
@click.option("--dry-run", is_flag=True, help="Delete nothing; only print the number of rollouts.")
def gc(db: str, older_than: str, dry_run: bool) -> None:
    """Delete rollouts that finished more than AGE ago, with their attempts and spans.

    The store deletes rollouts only through this command, and never deletes resources. The command can run while the
    store is running and can be interrupted: each rollout is deleted as a whole. The database file keeps its size, and
    the free space is reused.
    """
    with errors_as_messages():
        count = asyncio.run(_collect_garbage(db, _seconds(older_than), dry_run=dry_run))
    click.echo(f"{count} rollouts {'would be' if dry_run else 'were'} deleted.")


@click.command()
@click.option("--scope", type=click.Choice(("admin", "runner")), default="admin", help="Intended use.")
def token(scope: str) -> None:
    """Generate a random 256-bit token.

    Use an admin token for --token and AGL_TOKEN, and a runner token for --runner-token.
    """
    click.echo(f"agl-{scope}-{secrets.token_urlsafe(32)}")


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


def _announce(action: str, source: Path) -> None:
    if source.stat().st_size >= ANNOUNCED_BYTES:
        click.echo(f"{action} {source} ({_size(source)}) …", err=True)


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
