"""`agl store backup | check | stats | gc | token`: what a store's owner does now and then."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import click

_database = click.option(
    "--db",
    envvar="AGL_DB",
    default="./agl.db",
    show_default=True,
    show_envvar=True,
    metavar="DATABASE",
    help="A file, sqlite:///… or postgresql://…",
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@_database
def backup(file: Path, db: str) -> None:
    """Copy the database to FILE, while its store goes on.

    The copy holds everything that was acknowledged before it began. FILE must not be there yet, and is there only when
    the copy is whole and on disk.
    """
    from ..store.db.backup import backup as copy

    source = _file(db, instead="pg_dump copies a PostgreSQL database while its stores go on")
    with _errors():
        _announce("Copying", source)
        size = copy(source, file)
    click.echo(f"{file}: {size / 2**20:.1f} MB")


@click.command()
@_database
def check(db: str) -> None:
    """Look for damage: the file itself, and what every store keeps true of its rows.

    Exits with 1, and says what is wrong with which rollout, where something is. Changes nothing.
    """
    from ..store.maintenance import check as examine

    source = _file(db, instead="PostgreSQL checks its own files (pg_amcheck)")
    with _errors():
        _announce("Checking", source)
        found = examine(source)
    for line in found:
        click.echo(line, err=True)
    if found:
        raise click.ClickException(f"{source} is damaged: {len(found)} findings")
    click.echo(f"{source} is sound.")


@click.command()
@_database
def stats(db: str) -> None:
    """How much the store holds. Also of a store that is being served."""

    async def ask() -> Any:
        from ..store import open_store
        from ..store.db.read_only import FinishedRun

        async with open_store(db) if _is_served(db) else FinishedRun(_file(db)) as store:
            return await store.statistics()

    with _errors():
        held = asyncio.run(ask())
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    if not _is_served(db):
        table.add_row("size on disk", _size(_file(db)))
    for kind, number in held.items():
        table.add_row(kind.replace("_", " "), _shown(number))
    Console().print(table)


@click.command()
@_database
@click.option("--older-than", required=True, metavar="AGE", help="As 90m, 12h, 30d: since the rollout ended.")
@click.option("--dry-run", is_flag=True, help="Only say how many would go.")
def gc(db: str, older_than: str, dry_run: bool) -> None:
    """Delete rollouts that ended longer ago than AGE, with their attempts and spans.

    Nothing else is ever deleted, and nothing without this command. Resources stay. It may run beside the store, and be
    broken off: what has gone by then is gone whole. The file keeps its size, and is filled again.
    """
    from ..store.maintenance import collect

    with _errors():
        gone = asyncio.run(collect(db, _seconds(older_than), dry_run=dry_run, progress=_progress))
    click.echo(f"{gone} rollouts {'would be' if dry_run else 'were'} deleted.")


@click.command()
@click.option("--scope", type=click.Choice(("admin", "runner")), default="admin", show_default=True)
def token(scope: str) -> None:
    """Make a token of 256 bits, for --token or AGL_TOKEN (scope admin), or for runners (--runner-token)."""
    click.echo(f"agl-{scope}-{secrets.token_urlsafe(32)}")


def _shown(number: Any) -> str:
    by_status = cast("dict[str, int]", number) if isinstance(number, dict) else {"": int(number)}
    return ", ".join(f"{count} {status}".strip() for status, count in by_status.items()) or "none"


LARGE = 100 * 2**20
"""Bytes from which on something takes long enough to be announced."""


def _announce(what: str, source: Path) -> None:
    if source.stat().st_size >= LARGE:
        click.echo(f"{what} {source} ({_size(source)}) …", err=True)


def _progress(gone: int, of: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{gone} of {of} rollouts deleted", err=True, nl=gone >= of)


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MB"


def _is_served(db: str) -> bool:
    return urlsplit(db).scheme in _SERVED


_SERVED = ("http", "https", "postgresql", "postgres")


def _file(db: str, *, instead: str = "only a file") -> Path:
    if _is_served(db) or db.strip(":") == "memory":
        raise click.ClickException(f"{urlsplit(db).scheme or db} is not a database file: {instead}")
    path = Path(db.removeprefix("sqlite:///").removeprefix("sqlite:"))
    if not path.exists():
        raise click.ClickException(f"there is no database {path.absolute()}")
    return path


_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", age)
    if not match:
        raise click.BadParameter(f"{age!r} is not an age such as 90m, 12h or 30d", param_hint="--older-than")
    return float(match[1]) * _UNITS[match[2]]


class _errors:  # noqa: N801
    """What went wrong, in one line."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        from ..errors import AgentLightningError

        if isinstance(error, (AgentLightningError, OSError)):
            raise click.ClickException(str(error)) from None
