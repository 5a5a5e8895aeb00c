"""Upstream, the configuration of a model server behind the LLM proxy, and parsing of lists of upstreams."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InvalidInput
from ..instrumentation.dialects.base import as_object

Kind = Literal["openai", "anthropic", "azure"]

ANY_NAME = "*"
"""Name of the fallback upstream, which serves all models that do not have their own upstream."""


class Upstream(BaseModel):
    """A model server, and the model name that agents use to call it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    url: str
    """The server's URL in the form of an OpenAI client's `base_url`. If it does not have a path, `/v1` is appended."""
    model: str | None = None
    """The model's name on the server, if it differs from `name`."""
    api_key: str | None = Field(default=None, repr=False)
    kind: Kind | None = None
    """The API provider, which determines the header for the API key. If None, the provider is derived from the URL."""
    server: Literal["auto", "vllm", "llama.cpp", "other"] = "auto"
    """The server's inference engine, which determines the parameters that the proxy adds to requests to get token ids.

    If `auto`, the engine is detected. If `other`, no parameters are added.
    """
    policy_version: str | None = None
    """The version of the model weights that the server uses. If set, it is recorded on the span of every call."""

    timeout: float = Field(default=600.0, gt=0)
    """A call fails if the server does not send any data for this many seconds."""
    connect_timeout: float = Field(default=10.0, gt=0)
    retries: int = Field(default=2, ge=0)
    """Maximum number of retries for each call.

    A call is retried only if it fails before the agent has received any part of the response.
    """
    max_concurrency: int | None = Field(default=None, ge=1)
    """Maximum number of calls in flight. Further calls wait."""
    max_waiting: int = Field(default=1_000, ge=0)
    """Maximum number of waiting calls. Further calls are rejected with HTTP status 429."""
    requests_per_minute: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _convert_litellm_entry(cls, entry: Any) -> Any:
        fields = as_object(entry)
        return _from_litellm(fields) if "litellm_params" in fields else entry

    @model_validator(mode="after")
    def _check_url(self) -> Upstream:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the url of {self.name!r} must start with http:// or https:// and contain a host")
        return self

    @property
    def host(self) -> str:
        """The host name in the URL."""
        return urlsplit(self.url).hostname or ""

    @property
    def addressed_as(self) -> Kind:
        """The API provider: `kind` if it is set, or else the provider derived from the URL."""
        if self.kind is not None:
            return self.kind
        if self.host.endswith("anthropic.com"):
            return "anthropic"
        return "azure" if self.host.endswith("azure.com") else "openai"

    def endpoint(self, path: str) -> str:
        """Return the URL for a path such as `chat/completions`."""
        parts = urlsplit(self.url)
        base = parts.path.rstrip("/") or "/v1"
        return parts._replace(path=f"{base}/{path}").geturl()

    @property
    def root(self) -> str:
        """The server's URL without `/v1`."""
        parts = urlsplit(self.url)
        return parts._replace(path=parts.path.rstrip("/").removesuffix("/v1"), query="").geturl()


ModelList: TypeAlias = Sequence[Upstream | Mapping[str, Any]] | Mapping[str, str]
"""A list of upstreams or of dicts with the same fields, or a dict that maps model names to URLs.

A dict in the list may also be an entry in LiteLLM's format.
"""


def parse_model_list(model_list: ModelList | None) -> list[Upstream]:
    """Convert a model list to upstreams. Raises `InvalidInput` if an entry is invalid."""
    if isinstance(model_list, Mapping):
        model_list = [{"name": name, "url": url} for name, url in model_list.items()]
    return [entry if isinstance(entry, Upstream) else _parse_upstream(entry) for entry in model_list or []]


def _parse_upstream(entry: Mapping[str, Any]) -> Upstream:
    try:
        return Upstream.model_validate(dict(entry))
    except ValidationError as error:
        invalid = InvalidInput.of(error)
        raise InvalidInput(f"model_list: {invalid}", field=invalid.field) from None


# Support for LiteLLM's format, which older scripts use

_DEFAULT_URLS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}
_PROVIDERS = frozenset({"openai", "hosted_vllm", "vllm", "anthropic", "azure", "custom_openai"})


def _from_litellm(entry: dict[str, Any]) -> dict[str, Any]:
    params = dict(entry["litellm_params"])
    provider, _, model = str(params.get("model", "")).partition("/")
    if provider not in _PROVIDERS or not model:
        provider, model = "openai", str(params.get("model", ""))
    fields: dict[str, Any] = {
        "name": entry.get("model_name"),
        "url": params.get("api_base") or params.get("base_url") or _DEFAULT_URLS.get(provider, _DEFAULT_URLS["openai"]),
        "model": model or None,
        "api_key": _resolve_key(params.get("api_key")),
        "kind": provider if provider in ("anthropic", "azure") else None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _resolve_key(key: Any) -> Any:
    prefix = "os.environ/"
    return os.environ.get(key[len(prefix) :]) if isinstance(key, str) and key.startswith(prefix) else key
