"""Upstreams: what is said of the model servers behind the proxy, and how it may be written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InvalidInput

Kind = Literal["openai", "anthropic", "azure"]

ANY_NAME = "*"
"""An upstream of this name takes calls for models that no other is named after."""


class Upstream(BaseModel):
    """A model server, by the name under which agents ask for its model."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    url: str
    """What an OpenAI client takes as `base_url`; a plain address gets `/v1`."""
    model: str | None = None
    """What the server calls the model, where that is not `name`."""
    api_key: str | None = Field(default=None, repr=False)
    kind: Kind | None = None
    """How it is addressed and takes its key; None tells it from the URL."""
    server: Literal["auto", "vllm", "llama.cpp", "other"] = "auto"
    """Which program it is, and so how it is asked for token ids; `auto` asks it. `other` is asked for nothing more."""
    policy_version: str | None = None
    """Which weights it serves; written on every call's span."""

    timeout: float = Field(default=600.0, gt=0)
    """Seconds without a byte of the answer after which the call has failed."""
    connect_timeout: float = Field(default=10.0, gt=0)
    retries: int = Field(default=2, ge=0)
    """How often a call is sent again that failed before the agent saw any of its answer."""
    max_concurrency: int | None = Field(default=None, ge=1)
    """Calls at once; more wait for their turn."""
    max_waiting: int = Field(default=1_000, ge=0)
    """Calls that may wait; more are answered with 429."""
    requests_per_minute: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _older_spelling(cls, given: Any) -> Any:
        return _from_litellm(cast("dict[str, Any]", given)) if _is_litellm(given) else given

    @model_validator(mode="after")
    def _has_a_sound_url(self) -> Upstream:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the url of {self.name!r} starts with http:// or https:// and names a host")
        return self

    @property
    def host(self) -> str:
        """Of its URL."""
        return urlsplit(self.url).hostname or ""

    @property
    def addressed_as(self) -> Kind:
        """Its kind, told from the URL where it was not given."""
        if self.kind is not None:
            return self.kind
        if self.host.endswith("anthropic.com"):
            return "anthropic"
        return "azure" if self.host.endswith("azure.com") else "openai"

    def endpoint(self, path: str) -> str:
        """The URL for a path such as `chat/completions`."""
        parts = urlsplit(self.url)
        base = parts.path.rstrip("/") or "/v1"
        return parts._replace(path=f"{base}/{path}").geturl()

    @property
    def root(self) -> str:
        """Its address without `/v1`."""
        parts = urlsplit(self.url)
        return parts._replace(path=parts.path.rstrip("/").removesuffix("/v1"), query="").geturl()


ModelList: TypeAlias = Sequence[Upstream | Mapping[str, Any]] | Mapping[str, str]
"""Upstreams, as such or as dicts of their fields; or just URLs by name."""


def upstreams(model_list: ModelList | None) -> list[Upstream]:
    """The upstreams that a model list names. Raises `InvalidInput`."""
    if model_list is None:
        return []
    given = (
        [{"name": name, "url": url} for name, url in model_list.items()]
        if isinstance(model_list, Mapping)
        else model_list
    )
    return [_upstream(one) for one in given]


def _upstream(given: Upstream | Mapping[str, Any]) -> Upstream:
    if isinstance(given, Upstream):
        return given
    try:
        return Upstream.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"model_list: {f'{field}: ' if field else ''}{first['msg']}", field=field or None) from None


# LiteLLM's spelling, which older scripts have

_KINDS: dict[str, Kind] = {"anthropic": "anthropic", "azure": "azure"}
_HOMES = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}
_PROVIDERS = frozenset({"openai", "hosted_vllm", "vllm", "anthropic", "azure", "custom_openai"})


def _is_litellm(given: Any) -> bool:
    return isinstance(given, dict) and "litellm_params" in given


def _from_litellm(given: dict[str, Any]) -> dict[str, Any]:
    said = dict(given["litellm_params"])
    provider, _, model = str(said.get("model", "")).partition("/")
    if provider not in _PROVIDERS or not model:
        provider, model = "openai", str(said.get("model", ""))
    fields: dict[str, Any] = {
        "name": given.get("model_name"),
        "url": said.get("api_base") or said.get("base_url") or _HOMES.get(provider, _HOMES["openai"]),
        "model": model or None,
        "api_key": _from_environment(said.get("api_key")),
        "kind": _KINDS.get(provider),
    }
    return {key: value for key, value in fields.items() if value is not None}


def _from_environment(key: Any) -> Any:
    prefix = "os.environ/"
    return os.environ.get(key[len(prefix) :]) if isinstance(key, str) and key.startswith(prefix) else key
