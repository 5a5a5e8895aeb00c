"""Data types: defaults, validation, representation, and prompt templates."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from agentlightning import types
from agentlightning.types import (
    LLM,
    Attempt,
    AttemptedRollout,
    AttemptRef,
    Config,
    EnqueueRolloutRequest,
    Hook,
    NamedResources,
    PaginatedResult,
    PromptTemplate,
    ProxyLLM,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    Triplet,
    Weights,
    Worker,
)

RESOURCES = TypeAdapter[dict[str, Any]](NamedResources)
SECRET = "sk-a-very-secret-key"


def attempted(rollout_id: str = "ro-1", attempt_id: str = "at-1") -> AttemptedRollout:
    return AttemptedRollout(
        rollout_id=rollout_id,
        input="task",
        start_time=1.0,
        attempt=Attempt(rollout_id=rollout_id, attempt_id=attempt_id, sequence_id=1, start_time=2.0),
    )


# Rollouts, attempts, workers


def test_statuses_are_the_published_ones() -> None:
    assert get_args(types.RolloutMode) == ("train", "val", "test")
    assert get_args(types.RolloutStatus) == (
        "queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing",
    )  # fmt: skip
    assert get_args(types.AttemptStatus) == (
        "preparing", "running", "failed", "succeeded", "unresponsive", "timeout",
    )  # fmt: skip
    assert get_args(types.WorkerStatus) == ("idle", "busy", "unknown")


def test_rollout_defaults() -> None:
    assert Rollout(rollout_id="ro-1", input={"q": 1}, start_time=1.5).model_dump() == {
        "rollout_id": "ro-1",
        "input": {"q": 1},
        "start_time": 1.5,
        "end_time": None,
        "mode": None,
        "resources_id": None,
        "resources_version": None,
        "status": "queuing",
        "config": {"timeout_seconds": None, "unresponsive_seconds": None, "max_attempts": 1, "retry_condition": []},
        "metadata": {},
        "reward": None,
    }


def test_metadata_none_becomes_empty_dict() -> None:
    assert Rollout(rollout_id="ro-1", input=1, start_time=1.0, metadata=None).metadata == {}  # type: ignore[arg-type]


def test_attempt_defaults() -> None:
    assert Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=1.5).model_dump() == {
        "rollout_id": "ro-1",
        "attempt_id": "at-1",
        "sequence_id": 1,
        "start_time": 1.5,
        "end_time": None,
        "status": "preparing",
        "worker_id": None,
        "last_heartbeat_time": None,
        "metadata": None,
    }


def test_attempt_sequence_id_zero_is_rejected() -> None:
    with pytest.raises(ValidationError, match="sequence_id"):
        Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=0, start_time=1.0)


def test_attempted_rollout_rejects_attempt_of_another_rollout() -> None:
    rollout = attempted()

    assert isinstance(rollout, Rollout)
    assert AttemptedRollout.model_validate_json(rollout.model_dump_json()) == rollout
    with pytest.raises(ValidationError, match="the attempt belongs to rollout ro-2, not ro-1"):
        AttemptedRollout(**{**dict(attempted("ro-1")), "attempt": attempted("ro-2").attempt})


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        (Rollout, {"rollout_id", "input", "start_time"}),
        (Attempt, {"rollout_id", "attempt_id", "sequence_id", "start_time"}),
        (EnqueueRolloutRequest, {"input"}),
        (RolloutConfig, set()),
        (Worker, {"worker_id"}),
        (LLM, {"endpoint", "model"}),
        (PromptTemplate, {"template"}),
        (Config, {"value"}),
        (Weights, {"uri", "format"}),
        (ResourcesUpdate, {"resources_id", "create_time", "update_time", "version", "resources"}),
        (types.Span, {"rollout_id", "attempt_id", "trace_id", "span_id", "name"}),
        (types.SpanCoreFields, {"name"}),
        (Triplet, {"prompt", "response"}),
    ],
)
def test_required_fields(model: Any, missing: set[str]) -> None:
    assert {name for name, field in model.model_fields.items() if field.is_required()} == missing


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("timeout_seconds", [0, -1, float("nan"), "soon"]),
        ("unresponsive_seconds", [0, -0.5, float("nan")]),
        ("max_attempts", [0, -1, 1.5, None]),
        ("retry_condition", [["nonsense"], "timeout", ["cancelled"]]),
    ],
)
def test_invalid_config_names_field(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValidationError, match=field):
            RolloutConfig(**{field: value})


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (RolloutConfig, {"max_retries": 2}),
        (EnqueueRolloutRequest, {"input": 1, "modus": "train"}),
        (AttemptRef, {"rollout_id": "ro-1", "attempt_id": "at-1", "worker_id": "w"}),
        (PromptTemplate, {"template": "", "engin": "jinja"}),
        (LLM, {"endpoint": "http://h", "model": "m", "apikey": SECRET}),
    ],
)
def test_unknown_field_is_rejected(model: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        model(**given)


@pytest.mark.parametrize("status", ["done", "QUEUING", "", None])
def test_unknown_status_is_rejected(status: Any) -> None:
    with pytest.raises(ValidationError, match="status"):
        Rollout(rollout_id="ro-1", input=1, start_time=1.0, status=status)


def test_worker_defaults() -> None:
    assert Worker(worker_id="w").model_dump() == {
        "worker_id": "w",
        "status": "unknown",
        "heartbeat_stats": None,
        "last_heartbeat_time": None,
        "last_dequeue_time": None,
        "last_busy_time": None,
        "last_idle_time": None,
        "current_rollout_id": None,
        "current_attempt_id": None,
        "stale_attempts": [],
    }


def test_mutable_defaults_are_not_shared() -> None:
    first, second = RolloutConfig(), RolloutConfig()

    first.retry_condition.append("timeout")

    assert second.retry_condition == []


def test_triplet_defaults() -> None:
    assert Triplet(prompt="p", response="r").model_dump() == {
        "prompt": "p",
        "response": "r",
        "reward": None,
        "metadata": {},
    }


# Pages


@pytest.fixture
def page() -> PaginatedResult[int]:
    return PaginatedResult[int](items=[10, 20, 30], limit=3, offset=5, total=99)


def test_page_behaves_like_sequence(page: PaginatedResult[int]) -> None:
    assert isinstance(page, Sequence)
    assert list(page) == [10, 20, 30]
    assert (len(page), page[0], page[-1], page[1:], page[::-1]) == (3, 10, 30, [20, 30], [30, 20, 10])
    assert list(reversed(page)) == [30, 20, 10]
    assert (20 in page, 99 in page, page.index(30), page.count(10)) == (True, False, 2, 1)
    assert sorted(page, reverse=True) == [30, 20, 10]


def test_empty_page_is_false(page: PaginatedResult[int]) -> None:
    empty = PaginatedResult[int](items=[], limit=0, offset=0, total=99)

    assert page
    assert not empty
    with pytest.raises(IndexError):
        empty[0]


def test_page_is_read_only(page: PaginatedResult[int]) -> None:
    with pytest.raises(TypeError):
        page[0] = 1  # type: ignore[index]
    with pytest.raises(TypeError):
        del page[0]  # type: ignore[attr-defined]


def test_page_survives_json() -> None:
    page = PaginatedResult[AttemptedRollout](items=[attempted()], limit=-1, offset=0, total=1)

    assert PaginatedResult[AttemptedRollout].model_validate_json(page.model_dump_json()) == page


# Resources


def test_plain_string_becomes_prompt_template() -> None:
    assert RESOURCES.validate_python({"prompt": "Hello {name}"}) == {
        "prompt": PromptTemplate(template="Hello {name}", engine="f-string")
    }


def test_resource_type_selects_class() -> None:
    resources = {
        "llm": LLM(endpoint="http://h:1/v1", model="m", api_key=SECRET, sampling_parameters={"temperature": 0.5}),
        "proxy": ProxyLLM(endpoint="http://h:1/v1", model="m"),
        "prompt": PromptTemplate(template="{{ x }}", engine="jinja"),
        "config": Config(value={"any": ["json", None, 1.5]}),
        "weights": Weights(uri="file:///w", format="safetensors", sha256="ab" * 32, base_model="b", metadata={"r": 8}),
    }

    assert RESOURCES.validate_json(RESOURCES.dump_json(resources)) == resources
    assert {name: resource.resource_type for name, resource in resources.items()} == {
        "llm": "llm",
        "proxy": "proxy_llm",
        "prompt": "prompt_template",
        "config": "config",
        "weights": "weights",
    }


def test_object_without_resource_type_is_rejected_with_hint() -> None:
    with pytest.raises(ValidationError, match="needs a 'resource_type'") as caught:
        RESOURCES.validate_python({"prompt": {"template": "x"}})

    assert caught.value.errors()[0]["loc"][0] == "prompt"
    assert "agl.Config(value=" in str(caught.value)


@pytest.mark.parametrize("value", [None, 1, ["a"], {"resource_type": "nonsense"}, {"resource_type": None}, object()])
def test_invalid_resource_is_named(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        RESOURCES.validate_python({"odd": value})

    assert {error["loc"][0] for error in caught.value.errors()} == {"odd"}


def test_api_key_is_hidden_in_representation() -> None:
    for llm in (
        LLM(endpoint="http://h", model="m", api_key=SECRET),
        ProxyLLM(endpoint="http://h", model="m", api_key=SECRET),
    ):
        update = ResourcesUpdate(resources_id="rs-1", create_time=1, update_time=1, version=1, resources={"llm": llm})
        assert SECRET not in f"{llm} {llm!r} {update} {update!r}"


@pytest.mark.parametrize("sha256", ["", "ab", "AB" * 32, "zz" * 32, "ab" * 33])
def test_invalid_checksum_is_rejected(sha256: str) -> None:
    with pytest.raises(ValidationError, match="sha256"):
        Weights(uri="file:///w", format="safetensors", sha256=sha256)


def test_version_zero_is_rejected() -> None:
    with pytest.raises(ValidationError, match="version"):
        ResourcesUpdate(resources_id="rs-1", create_time=1, update_time=1, version=0, resources={})


# Base URLs


def test_llm_base_url_is_endpoint() -> None:
    assert LLM(endpoint="http://h:1/v1", model="m").get_base_url() == "http://h:1/v1"


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://h:1/v1", "http://h:1/rollout/ro-1/attempt/at-1/v1"),
        ("http://h:1/v1/", "http://h:1/rollout/ro-1/attempt/at-1/v1"),
        ("http://h:1", "http://h:1/rollout/ro-1/attempt/at-1"),
        ("http://h:1/", "http://h:1/rollout/ro-1/attempt/at-1"),
        ("http://h:1/api/v1", "http://h:1/api/rollout/ro-1/attempt/at-1/v1"),
        ("http://h:1/v1/v1", "http://h:1/v1/rollout/ro-1/attempt/at-1/v1"),
        ("http://h:1/nov1", "http://h:1/nov1/rollout/ro-1/attempt/at-1"),
    ],
)
def test_proxy_llm_base_url_names_attempt(endpoint: str, url: str) -> None:
    llm = ProxyLLM(endpoint=endpoint, model="m", api_key=SECRET, sampling_parameters={"temperature": 0})

    assert llm.get_base_url("ro-1", "at-1") == url
    assert llm.get_base_url() == endpoint
    assert llm.with_attempted_rollout(attempted()) == LLM(
        endpoint=url, model="m", api_key=SECRET, sampling_parameters={"temperature": 0}
    )
    assert type(llm.with_attempted_rollout(attempted())) is LLM


@pytest.mark.parametrize("ids", [("ro-1", None), (None, "at-1")])
def test_base_url_with_one_id_is_rejected(ids: tuple[str | None, str | None]) -> None:
    with pytest.raises(ValueError, match="both rollout_id and attempt_id, or neither"):
        ProxyLLM(endpoint="http://h/v1", model="m").get_base_url(*ids)


# Hooks


async def test_default_hooks_do_nothing() -> None:
    hook = Hook()

    for name in ("on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"):
        method = getattr(hook, name)
        parameters = inspect.signature(method).parameters.values()
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
        assert await method(**{parameter.name: None for parameter in parameters}) is None
