"""Upstreams: the configuration of the model servers behind the proxy, in all supported formats."""

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
"""Name of the fallback upstream, which serves all models that have no upstream of their own."""


class Upstream(BaseModel):
    """A model server and the name under which agents call its model."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    url: str
    """The `base_url` for an OpenAI client. `/v1` is appended to a URL without a path."""
    model: str | None = None
    """The model's name on the server, if it differs from `name`."""
    api_key: str | None = Field(default=None, repr=False)
    kind: Kind | None = None
    """The API provider, which determines how the API key is sent. None derives the provider from the URL."""
    server: Literal["auto", "vllm", "llama.cpp", "other"] = "auto"
    """The inference engine, which determines the request parameters for token ids. `auto` detects the engine; with
    `other`, no such parameters are sent."""
    policy_version: str | None = None
    """The version of the weights on the server, recorded on every call's span."""

    timeout: float = Field(default=600.0, gt=0)
    """The call fails after this many seconds without any response data."""
    connect_timeout: float = Field(default=10.0, gt=0)
    retries: int = Field(default=2, ge=0)
    """Maximum number of retries of a call that fails before the agent has received any part of the response."""
    max_concurrency: int | None = Field(default=None, ge=1)
    """Maximum number of calls in flight. Further calls wait."""
    max_waiting: int = Field(default=1_000, ge=0)
    """Maximum number of waiting calls. Further calls are rejected with 429."""
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
        """The API provider: `kind`, or the provider derived from the URL."""
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
"""A list of upstreams or of dicts with their fields, or a dict of URLs by model name."""


def parse_model_list(model_list: ModelList | None) -> list[Upstream]:
    """Convert a model list to upstreams. Raises `InvalidInput` if an entry is not valid."""
    if isinstance(model_list, Mapping):
        model_list = [{"name": name, "url": url} for name, url in model_list.items()]
    return [entry if isinstance(entry, Upstream) else _parse_upstream(entry) for entry in model_list or []]


def _parse_upstream(entry: Mapping[str, Any]) -> Upstream:
    try:
        return Upstream.model_validate(dict(entry))
    except ValidationError as error:
        invalid = InvalidInput.of(error)
        raise InvalidInput(f"model_list: {invalid}", field=invalid.field) from None


# LiteLLM's format, which older scripts use

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
