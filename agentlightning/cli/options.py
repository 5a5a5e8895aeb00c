"""Options and error handling shared by several commands."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..logs import escape_controls

if TYPE_CHECKING:
    from ..store import LightningStore

F = TypeVar("F", bound=Callable[..., Any])

POSITIVE: Final = click.IntRange(min=1)
PORT: Final = click.IntRange(0, 65_535)
EXISTING_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


def echo(text: str, *, err: bool = False, keep_lines: bool = False) -> None:
    """Print a line that may contain text from a store or a model, and escape its control characters.

    If `keep_lines` is true, line feeds and tabs in the text are printed unchanged.
    """
    click.echo(escape_controls(text, keep_lines=keep_lines), err=err)


@contextmanager
def errors_as_messages() -> Generator[None]:
    """Print an error from this package or an OS error as a message without a traceback, and exit with status 1."""
    from ..errors import AgentLightningError

    try:
        yield
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None


log_level_option = click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error"), case_sensitive=False),
    default="info",
    help="Minimum severity of the log lines to print.",
)


host_option = click.option(
    "--host", default="127.0.0.1", help="Address to listen on. Any address other than 127.0.0.1 requires a token."
)


def port_option(default: int) -> Callable[[F], F]:
    """Return a decorator that adds the option `--port` of a server to a command."""
    return click.option("--port", default=default, type=PORT, help="Port to listen on; 0 selects a free port.")


def token_option(name: str, variable: str, help: str) -> Callable[[F], F]:
    """Return a decorator that adds two options for a token to a command: `name`, and `name`-file for reading a file.

    The command receives the token as one parameter, which is named after the first option. A file takes precedence over
    the environment variable `variable`.
    """
    parameter = name.removeprefix("--").replace("-", "_")

    def add_options(command: F) -> F:
        @functools.wraps(command)
        def with_token(*args: Any, **kwargs: Any) -> Any:
            file = kwargs.pop(f"{parameter}_file")
            if file is not None:
                source = click.get_current_context().get_parameter_source(parameter)
                if source is click.core.ParameterSource.COMMANDLINE:
                    raise click.UsageError(f"pass either {name} or {name}-file")
                kwargs[parameter] = _read_token(file)
            return command(*args, **kwargs)

        text = f"Read the value of {name} from this file. Only its owner should be able to read it (chmod 600)."
        from_file = click.option(f"{name}-file", type=EXISTING_FILE, metavar="FILE", help=text)(with_token)
        advice = f"Other users can see the command line, so prefer {variable} or {name}-file."
        return click.option(name, envvar=variable, show_envvar=True, help=f"{help} {advice}")(from_file)  # type: ignore[return-value]

    return add_options


def _read_token(file: Path) -> str:
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise click.ClickException(f"the token file {file} cannot be read: {error}") from None
    if mode & 0o077:
        echo(f"Warning: other users can read or change the token file {file}; run: chmod 600 {file}", err=True)
    if not text or len(text.split()) > 1:
        raise click.ClickException(f"the token file {file} must contain one token and nothing else")
    return text


def database_option(help: str) -> Callable[[F], F]:
    """Return a decorator that adds the option `--db` to a command. The command receives its value as `db`."""
    return click.option("--db", envvar="AGL_DB", default="./agl.db", show_envvar=True, metavar="DATABASE", help=help)


def store_url_option(help: str) -> Callable[[F], F]:
    """Return a decorator that adds the option `--store` to a command. The command receives its value as `store_url`."""
    return click.option("--store", "store_url", envvar="AGL_STORE_URL", show_envvar=True, metavar="URL", help=help)


def store_options(command: F) -> F:
    """Add the options `--store` and `--db` to a command. The command receives their values as `store_url` and `db`."""
    served = store_url_option("URL of a running store. If it requires a token, set AGL_TOKEN.")
    return served(database_option("Database to open directly if --store is not given.")(command))


def open_selected_store(url: str | None, db: str) -> LightningStore:
    """Return a client for the store at `url`, or open the store in the database `db` if no URL is given."""
    from ..store import LightningStoreClient, open_store

    return LightningStoreClient(url, give_up_after=10) if url else open_store(db)


def model_options(command: F) -> F:
    """Add the options `--model` and `--key` to a command. The command receives their values as `models` and `keys`.

    `model_list` in `cli/proxy.py` converts these values to a list of models.
    """
    key = "Environment variable that contains the API key for model NAME. Repeatable."
    command = click.option("--key", "keys", metavar="NAME=VARIABLE", multiple=True, help=key)(command)
    url = "Model name, and the URL of its server. Repeatable."
    return click.option("--model", "models", metavar="NAME=URL", multiple=True, help=url)(command)


def format_reward(reward: float | None) -> str:
    """Format a reward for the terminal. A missing reward is shown as `none`."""
    return "none" if reward is None else format(reward, "g")


def parse_pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """Parse the values of a repeatable option that takes NAME=VALUE, and return a dict from names to values."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not (name and value):
            raise click.UsageError(f"{option} takes NAME=VALUE, not {text!r}")
        pairs[name] = value
    return pairs


def read_variable(variables: dict[str, str], name: str) -> str | None:
    """Return the value of the environment variable `variables[name]`, or None if `variables` does not contain `name`.

    Commands read secrets from environment variables because other users of the machine can see a command's arguments.
    """
    if name not in variables:
        return None
    if not (value := os.environ.get(variables[name])):
        raise click.UsageError(f"the environment variable {variables[name]} (for {name!r}) is not set")
    return value


_UNITS: Final = {"": 1, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}


class Size(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - not generic in older versions of click
    """A size in bytes, with an optional unit: `65536`, `64KiB`, `16MiB` or `1GiB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+)\s*(|KiB|MiB|GiB)", str(value), re.IGNORECASE)
        if not match:
            self.fail(f"{value!r} is not a size such as 65536, 64KiB, 16MiB or 1GiB", param, ctx)
        return int(match[1]) * _UNITS[match[2].upper()]


_SECONDS: Final = click.FloatRange(min=0, min_open=True)

LIMIT_OPTIONS: Final[dict[str, tuple[str, Any, str, str]]] = {
    "body": ("--max-body", Size(), "16MiB", "Maximum size of a request body."),
    "unpacked": ("--max-unpacked", Size(), "20MiB", "Maximum size of a request body after decompression."),
    "bodies": ("--max-bodies", Size(), "256MiB", "Maximum total size of the bodies of all requests in progress."),
    "requests": ("--max-requests", POSITIVE, "4096", "Maximum number of concurrent requests."),
    "head": ("--max-head", Size(), "64KiB", "Maximum size of the request line and headers."),
    "depth": ("--max-depth", click.IntRange(1, 64), "64", "Maximum nesting depth of JSON values."),
    "values": ("--max-values", POSITIVE, "500000", "Maximum number of values in a JSON body or an OTLP request."),
    "items": ("--max-items", POSITIVE, "10000", "Maximum number of rollouts, spans or attempts in one call."),
    "spans": ("--max-spans", POSITIVE, "10000", "Maximum number of spans in an OTLP request."),
    "span_values": ("--max-span-values", POSITIVE, "20000", "Maximum number of values in a span of an OTLP request."),
    "page": ("--max-page", POSITIVE, "1000", "Maximum number of items in one page of a list."),
    "page_bytes": ("--max-page-bytes", Size(), "8MiB", "Maximum size of a page of a list; one item may exceed it."),
    "head_seconds": ("--head-seconds", _SECONDS, "10", "Timeout in seconds for receiving a request's headers."),
    "body_seconds": ("--body-seconds", _SECONDS, "60", "Timeout in seconds for receiving a request's body."),
    "attempt_token_seconds": (
        "--attempt-token-seconds",
        _SECONDS,
        "86400",
        "Time in seconds for which an attempt's token stays valid after the end of the attempt.",
    ),
    "header_count": ("--max-headers", POSITIVE, "200", "Maximum number of headers in a request."),
    "pipelined": ("--max-pipelined", POSITIVE, "100", "Maximum number of unanswered requests on a connection."),
    "listeners": ("--max-listeners", POSITIVE, "200", "Maximum number of open event streams."),
    "unsent": ("--max-unsent", Size(), "256MiB", "Maximum total size of responses that clients have not read yet."),
    "send_seconds": ("--send-seconds", _SECONDS, "60", "Timeout in seconds for clients that stop reading a response."),
}
"""Option name, type, displayed default and help text for each field of `agentlightning.http.limits.Limits` that applies
to the store."""
PROXY_LIMIT_OPTIONS: Final[dict[str, tuple[str, Any, str, str]]] = {
    "body": ("--max-body", Size(), "64MiB", "Maximum size of a request body."),
    "upstream_response": ("--max-response", Size(), "64MiB", "Maximum size of a model server's decompressed response."),
    "upstream_event": ("--max-event", Size(), "32MiB", "Maximum size of one event in a streamed response."),
    "upstream_events": ("--max-events", POSITIVE, "200000", "Maximum number of events in a streamed response."),
    "values": ("--max-values", POSITIVE, "500000", "Maximum number of values in a JSON body or an event."),
    "upstream_seconds": ("--call-seconds", _SECONDS, "3600", "Timeout in seconds for a call, including retries."),
}
"""The same for fields of `Limits` that apply to the LLM proxy. Each option's default is the proxy's."""


def limit_options(options: dict[str, tuple[str, Any, str, str]]) -> Callable[[F], F]:
    """Return a decorator that adds options for limits to a command.

    The command receives the value of each option as a parameter named after the field. If the option is not given, the
    value is None.
    """

    def decorate(command: F) -> F:
        for field, (option, kind, default, text) in reversed(options.items()):
            command = click.option(option, field, type=kind, help=f"{text}  [default: {default}]")(command)
        return command

    return decorate
