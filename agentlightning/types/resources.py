"""Resources: the prompts, models, weights and settings that algorithms tune and agents use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..attempt_tokens import api_key_for_attempt
from ..errors import MissingExtra, PromptError
from .rollouts import AttemptedRollout

T_co = TypeVar("T_co", covariant=True)


HIDDEN = "***"
"""The text that replaces an API key in output."""


class Resource(BaseModel):
    """Base class for all resources. In JSON, the field `resource_type` identifies the subclass."""

    model_config = ConfigDict(extra="forbid")

    resource_type: Any


class LLM(Resource):
    """A language model on a server: its endpoint, name, API key and sampling parameters."""

    resource_type: Literal["llm"] = "llm"
    endpoint: str
    model: str
    api_key: str | None = Field(default=None, repr=False)
    sampling_parameters: dict[str, Any] = Field(default_factory=dict)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        yield from super().__repr_args__()
        if self.api_key is not None:
            yield "api_key", HIDDEN

    def get_base_url(self) -> str:
        """Return the `base_url` for an OpenAI client."""
        return self.endpoint


class ProxyLLM(LLM):
    """A model behind an `LLMProxy`. The URL of a call identifies the attempt that made the call."""

    resource_type: Literal["proxy_llm"] = "proxy_llm"  # pyright: ignore[reportIncompatibleVariableOverride]

    def get_base_url(
        self, rollout_id: str | None = None, attempt_id: str | None = None, traceparent: str | None = None
    ) -> str:
        """Return the `base_url` for an attempt: the endpoint with `/rollout/{rollout_id}/attempt/{attempt_id}` added.

        This path is inserted before a trailing `/v1`. A W3C `traceparent` is also added to the path. It sets the parent
        span of calls that do not send a traceparent header. Without ids, the endpoint is returned unchanged. Raises
        ValueError if only one of the two ids is given.
        """
        if rollout_id is None and attempt_id is None:
            return self.endpoint
        if rollout_id is None or attempt_id is None:
            raise ValueError("pass both rollout_id and attempt_id, or neither")
        root = self.endpoint.rstrip("/")
        version = "/v1" if root.endswith("/v1") else ""
        within = f"/trace/{traceparent}" if traceparent else ""
        return f"{root.removesuffix('/v1')}/rollout/{rollout_id}/attempt/{attempt_id}{within}{version}"

    def with_attempted_rollout(self, attempted: AttemptedRollout, traceparent: str | None = None) -> LLM:
        """Return an `LLM` for this attempt.

        Its URL identifies the attempt. If the API key is a secret of the proxy, the attempt's token replaces it.
        """
        rollout_id, attempt_id = attempted.rollout_id, attempted.attempt.attempt_id
        return LLM(
            endpoint=self.get_base_url(rollout_id, attempt_id, traceparent),
            model=self.model,
            api_key=api_key_for_attempt(self.api_key, rollout_id, attempt_id),
            sampling_parameters=self.sampling_parameters,
        )


_PLACEHOLDER = re.compile(
    r"\{\{[A-Za-z_]\w*+\}\}"  # {{name}}: a literal {name}
    r"|\{(?P<name>[A-Za-z_]\w*+)(?P<rest>[.\[!:][^{}]*+)?\}"
)
_SAFE_SPEC = re.compile(r"[<>^]?\d{0,2},?(\.\d{1,2})?[bdefgnosx%]?")


class PromptTemplate(Resource):
    """A prompt with placeholders.

    Templates count as untrusted input, because models may write them. With the `f-string` engine, a placeholder
    is a plain identifier in braces (`{name}`), optionally with a format spec from a restricted set (`{price:.2f}`). All
    other braces stay unchanged, so prompts may contain JSON. `{{name}}` yields a literal `{name}`. The `jinja` engine
    renders the template in jinja2's sandbox, within `max_steps`, and requires the extra `[jinja]`. The `poml` engine is
    not supported, because POML templates can execute any code. The store rejects new POML templates, but templates that
    are already stored can still be read.
    """

    max_length: ClassVar[int] = 4 * 1024 * 1024
    """Maximum length of the text that `format` inserts (f-string) or returns (jinja), in characters."""
    max_steps: ClassVar[int] = 100_000
    """Maximum number of steps to compile a jinja template, and also the maximum number of steps to render it.

    When the template is compiled, each token counts as forty steps. When it is rendered, each loop iteration and each
    expression counts as one step, and long values and calls count as several."""

    resource_type: Literal["prompt_template"] = "prompt_template"
    template: str
    engine: Literal["f-string", "jinja", "poml"] = "f-string"

    def format(self, **values: Any) -> str:
        """Return the prompt with `values` filled in.

        Raises `PromptError` if the template cannot be rendered or exceeds a limit. In an f-string template,
        placeholders without a value stay unchanged. If `values` also contains names that the template does not use,
        they are probably misspelled, so this raises `PromptError`.
        """
        match self.engine:
            case "f-string":
                return self._fill(values)
            case "jinja":
                return self._jinja(values)
            case "poml":
                raise PromptError(_POML_REFUSED, field="engine")

    def placeholders(self) -> list[str]:
        """Return the names of the f-string placeholders without duplicates, in the order of first occurrence."""
        found = (match["name"] for match in _PLACEHOLDER.finditer(self.template) if match["name"])
        return list(dict.fromkeys(found))

    def _fill(self, values: Mapping[str, Any]) -> str:
        expected = dict.fromkeys(self.placeholders())
        missing = [name for name in expected if name not in values]
        unused = [name for name in values if name not in expected]
        # If some names are missing and others are unused, a name is probably misspelled. Otherwise, a missing name may
        # be literal text.
        if missing and unused:
            raise PromptError(
                f"the prompt template needs {_braced(missing)}, but got {_braced(list(values))}", field=missing[0]
            )
        inserted = 0

        def replace(match: re.Match[str]) -> str:
            nonlocal inserted
            text = _replacement(match, values)
            inserted += len(text)
            if inserted > self.max_length:
                raise PromptError(
                    f"the values in the prompt are longer than {self.max_length} characters (PromptTemplate.max_length)"
                )
            return text

        return _PLACEHOLDER.sub(replace, self.template)

    def _jinja(self, values: Mapping[str, Any]) -> str:
        try:
            from .jinja import render
        except ImportError:
            raise MissingExtra("jinja", wanted_for="a jinja prompt template") from None
        try:
            return render(self.template, values, max_length=self.max_length, max_steps=self.max_steps)
        except PromptError:
            raise
        except Exception as error:  # a template is a program and may raise any exception
            raise PromptError(f"the jinja prompt template cannot be filled in: {_shortened(str(error))}") from None


class Config(Resource):
    """Any tunable JSON value."""

    resource_type: Literal["config"] = "config"
    value: Any


class Weights(Resource):
    """A reference to model weights, without the weights themselves."""

    resource_type: Literal["weights"] = "weights"
    uri: str
    format: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    base_model: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


def _parse_resource(value: Any) -> Any:
    if isinstance(value, str):
        return PromptTemplate(template=value)
    if isinstance(value, dict) and "resource_type" not in value:
        raise ValueError(
            "a resource given as a JSON object needs a 'resource_type' (llm, proxy_llm, prompt_template, config or "
            "weights); wrap other data in agl.Config(value=…)"
        )
    return cast("Any", value)


ResourceUnion = Annotated[
    Annotated[LLM | ProxyLLM | PromptTemplate | Config | Weights, Field(discriminator="resource_type")],
    BeforeValidator(_parse_resource),
]
NamedResources: TypeAlias = dict[str, ResourceUnion]
"""Resources by name. A plain string is converted to `PromptTemplate(template=…, engine="f-string")`."""


def with_hidden_keys(resources: NamedResources) -> NamedResources:
    """Return the resources with `HIDDEN` instead of their API keys."""
    hide = {"api_key": HIDDEN}
    return {
        name: each.model_copy(update=hide) if isinstance(each, LLM) and each.api_key is not None else each
        for name, each in resources.items()
    }


class ResourcesUpdate(BaseModel):
    """One version of a set of named resources."""

    resources_id: str
    create_time: float
    update_time: float
    version: int = Field(ge=1)
    resources: NamedResources


class Dataset(Protocol[T_co]):
    """A sequence of tasks, such as a list. It must support `len()` and access by index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> T_co: ...


_POML_REFUSED = (
    "POML prompt templates are not supported: a POML template runs code and reads files, and a model may have written "
    "it; use the engine f-string or jinja, or, if you trust the template, render it yourself and store the text"
)


def refuse_poml(resources: NamedResources) -> None:
    """Raise `PromptError` if one of the resources is a POML template."""
    for name, each in resources.items():
        if isinstance(each, PromptTemplate) and each.engine == "poml":
            raise PromptError(f"resource {name!r}: {_POML_REFUSED}", field=f"resources.{name}.engine")


def _braced(names: list[str]) -> str:
    return _shortened(", ".join(f"{{{name}}}" for name in names)) or "nothing"


def _shortened(text: str) -> str:
    return text if len(text) <= 500 else f"{text[:500]}…"


def _replacement(match: re.Match[str], values: Mapping[str, Any]) -> str:
    name, rest, shown = match["name"], match["rest"], _shortened(match[0])
    if name is None:
        return match[0][1:-1]
    if name not in values:
        return match[0]
    if not rest:
        return str(values[name])
    if rest[0] != ":":
        raise PromptError(f"{shown} is not allowed in a prompt template: use a plain name", field=name)
    spec = rest[1:]
    if not _SAFE_SPEC.fullmatch(spec):
        raise PromptError(f"the format spec of {shown} is not allowed in a prompt template", field=name)
    try:
        return format(values[name], spec)
    except (TypeError, ValueError) as error:
        raise PromptError(f"the value of {shown} cannot be formatted: {error}", field=name) from None
