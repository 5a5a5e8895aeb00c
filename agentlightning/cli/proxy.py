"""`agl proxy`: the gateway between agents and model servers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from .key_value_options import in_environment, pairs
from .store import LEVELS

if TYPE_CHECKING:
    from ..store import LightningStore


@click.command()
@click.option("--model", "models", metavar="NAME=URL", multiple=True, help="A model and where it is served.")
@click.option(
    "--models",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON file with models and all that may be said of them; read again on SIGHUP, and no call is dropped.",
)
@click.option(
    "--key", "keys", metavar="NAME=VARIABLE", multiple=True, help="Its API key is in this environment variable."
)
@click.option("--serves", metavar="NAME=MODEL", multiple=True, help="The server knows the model by this name.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need a token.")
@click.option("--port", default=4749, show_default=True, help="Port to listen on; 0 is any free one.")
@click.option(
    "--store",
    "store_url",
    envvar="AGL_STORE_URL",
    show_envvar=True,
    metavar="URL",
    help="Record calls in this store (its token is AGL_TOKEN).",
)
@click.option(
    "--token", envvar="AGL_PROXY_TOKEN", show_envvar=True, help="Answer only those who send this as their key."
)
@click.option("--log-level", type=click.Choice(LEVELS, case_sensitive=False), default="info", show_default=True)
def command(
    models: tuple[str, ...],
    file: Path | None,
    keys: tuple[str, ...],
    serves: tuple[str, ...],
    host: str,
    port: int,
    store_url: str | None,
    token: str | None,
    log_level: str,
) -> None:
    """Stand between agents and model servers, and record every call.

    Agents use it as they would use OpenAI or Anthropic. A call to
    /rollout/ROLLOUT_ID/attempt/ATTEMPT_ID/v1 is stored as that attempt's, with token ids where the server gives them.
    """
    from ..errors import AgentLightningError
    from ..llm_proxy import LLMProxy
    from ..logs import setup_logging

    if not models and file is None:
        raise click.UsageError("name a model: --model NAME=URL, or --models FILE")
    setup_logging(log_level)

    def found() -> list[dict[str, Any]]:
        return model_list(models, keys, serves) + (models_in(file) if file else [])

    try:
        proxy = LLMProxy(port, found(), _store(store_url), host=host, token=token)
        proxy.run_forever(lambda: click.echo(_announcement(proxy, store_url)), found if file else None)
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None


def _announcement(proxy: Any, store_url: str | None) -> str:
    names = ", ".join(upstream.name for upstream in proxy.model_list)
    recorded = f"calls of attempts are recorded at {store_url}" if store_url else "nothing is recorded (no --store)"
    return f"Proxy at {proxy.endpoint} for {names}; {recorded}. Ctrl-C ends it."


def _store(url: str | None) -> LightningStore | None:
    from ..store import LightningStoreClient

    return LightningStoreClient(url) if url else None


def model_list(models: tuple[str, ...], keys: tuple[str, ...], serves: tuple[str, ...]) -> list[dict[str, Any]]:
    """Upstreams as `LLMProxy` takes them, from what was said on the command line."""
    urls, served = pairs(models, "--model"), pairs(serves, "--serves")
    variables = pairs(keys, "--key")
    for name in {*served, *variables} - set(urls):
        raise click.UsageError(f"there is no --model named {name!r}")
    entries = [
        {"name": name, "url": url, "model": served.get(name), "api_key": in_environment(variables, name)}
        for name, url in urls.items()
    ]
    return [{key: value for key, value in entry.items() if value is not None} for entry in entries]


def models_in(file: Path) -> list[dict[str, Any]]:
    """Upstreams from a JSON file, where `"api_key": "$NAME"` names an environment variable. Raises `InvalidInput`."""
    from ..errors import InvalidInput

    try:
        entries: Any = json.loads(file.read_text())
    except ValueError as error:
        raise InvalidInput(f"{file} is not JSON: {error}", field="models") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in cast("list[Any]", entries)):
        raise InvalidInput(f"{file} holds no list of objects", field="models")
    return [_with_key(entry) for entry in cast("list[dict[str, Any]]", entries)]


def _with_key(entry: dict[str, Any]) -> dict[str, Any]:
    from ..errors import InvalidInput

    key = entry.get("api_key")
    if not isinstance(key, str) or not key.startswith("$"):
        return entry
    if not (value := os.environ.get(key[1:])):
        raise InvalidInput(f"the environment variable {key[1:]}, the key of {entry.get('name')!r}, is not set")
    return {**entry, "api_key": value}
