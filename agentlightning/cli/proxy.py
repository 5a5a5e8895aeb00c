"""`agl proxy`: run the proxy between agents and model servers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import click

from .options import (
    EXISTING_FILE,
    PROXY_LIMIT_OPTIONS,
    echo,
    errors_as_messages,
    host_option,
    limit_options,
    log_level_option,
    model_options,
    parse_pairs,
    port_option,
    read_variable,
    store_url_option,
    token_option,
)


@click.command()
@model_options
@click.option(
    "--models",
    "file",
    type=EXISTING_FILE,
    help="JSON file with models and their settings, in addition to --model. SIGHUP reloads it without dropping calls.",
)
@click.option(
    "--serves",
    metavar="NAME=MODEL",
    multiple=True,
    help="The server's own name for model NAME, if it differs. Repeatable.",
)
@host_option
@port_option(4749)
@store_url_option("URL of the store in which to record calls. If it requires a token, set AGL_TOKEN.")
@token_option("--token", "AGL_PROXY_TOKEN", "Token that clients must send as their API key.")
@limit_options(PROXY_LIMIT_OPTIONS)
@log_level_option
def proxy(
    models: tuple[str, ...],
    file: Path | None,
    keys: tuple[str, ...],
    serves: tuple[str, ...],
    host: str,
    port: int,
    store_url: str | None,
    token: str | None,
    log_level: str,
    **limits: Any,
) -> None:
    """Run a proxy between agents and model servers, and record the calls of attempts.

    Agents use the proxy like the OpenAI or Anthropic API. A call to /rollout/ROLLOUT_ID/attempt/ATTEMPT_ID/v1 is
    recorded for that attempt, including token ids if the server returns them.
    """
    from ..llm_proxy import LLMProxy
    from ..llm_proxy.proxy import LIMITS
    from ..logs import setup_logging
    from ..store import LightningStoreClient

    if not models and file is None:
        raise click.UsageError("no model given: pass --model NAME=URL or --models FILE")
    setup_logging(log_level)

    def load_models() -> list[dict[str, Any]]:
        return model_list(models, keys, serves) + (read_models(file) if file else [])

    with errors_as_messages():
        store = LightningStoreClient(store_url) if store_url else None
        given = {name: limit for name, limit in limits.items() if limit is not None}
        proxy = LLMProxy(port, load_models(), store, host=host, token=token, limits=replace(LIMITS, **given))
        proxy.run_forever(lambda: echo(_announcement(proxy, store_url)), load_models if file else None)


def _announcement(proxy: Any, store_url: str | None) -> str:
    names = ", ".join(upstream.name for upstream in proxy.model_list)
    recording = f"recording calls from attempts in {store_url}" if store_url else "not recording calls (no --store)"
    return f"Proxy for {names} at {proxy.endpoint}, {recording}. Press Ctrl-C to stop."


def model_list(models: tuple[str, ...], keys: tuple[str, ...], serves: tuple[str, ...]) -> list[dict[str, Any]]:
    """Convert the values of `--model`, `--key` and `--serves` to a model list for `LLMProxy`."""
    urls, served = parse_pairs(models, "--model"), parse_pairs(serves, "--serves")
    variables = parse_pairs(keys, "--key")
    for name in {*served, *variables} - set(urls):
        raise click.UsageError(f"there is no --model named {name!r}")
    entries = [
        {"name": name, "url": url, "model": served.get(name), "api_key": read_variable(variables, name)}
        for name, url in urls.items()
    ]
    return [{key: value for key, value in entry.items() if value is not None} for entry in entries]


def read_models(file: Path) -> list[dict[str, Any]]:
    """Read a model list from a JSON file.

    An `api_key` of the form `$NAME` is replaced by the value of the environment variable NAME. Raises `InvalidInput` if
    the file is malformed or an environment variable is not set.
    """
    from ..errors import InvalidInput

    try:
        entries: Any = json.loads(file.read_text())
    except ValueError as error:
        raise InvalidInput(f"{file} is not JSON: {error}", field="models") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in cast("list[Any]", entries)):
        raise InvalidInput(f"{file} does not contain a list of objects", field="models")
    return [_with_key(entry) for entry in cast("list[dict[str, Any]]", entries)]


def _with_key(entry: dict[str, Any]) -> dict[str, Any]:
    from ..errors import InvalidInput

    key = entry.get("api_key")
    if not isinstance(key, str) or not key.startswith("$"):
        return entry
    if not (value := os.environ.get(key[1:])):
        raise InvalidInput(f"the environment variable {key[1:]} (api_key of {entry.get('name')!r}) is not set")
    return {**entry, "api_key": value}
