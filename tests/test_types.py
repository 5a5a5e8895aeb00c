"""Data types: defaults, validation, representation, and prompt templates."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from agentlightning import types
from agentlightning.errors import PromptError
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


# Prompts


@pytest.mark.parametrize(
    ("template", "values", "prompt"),
    [
        ("You are helpful. {any_question}", {"any_question": "Why?"}, "You are helpful. Why?"),
        ("{a}{b}{a}", {"a": 1, "b": 2}, "121"),
        ("no placeholder", {}, "no placeholder"),
        ("no placeholder", {"unused": 1}, "no placeholder"),
        ("{price:.2f} {n:>4} {big:,} {h:x} {p:.1%}", {"price": 1.005, "n": 7, "big": 1234567, "h": 255, "p": 0.25},
         "1.00    7 1,234,567 ff 25.0%"),
        ('Answer as {"answer": "...", "n": {}} to {question}', {"question": "q"},
         'Answer as {"answer": "...", "n": {}} to q'),
        ('{"a": {"b": [1, {"c": "{question}"}]}}', {"question": "q"}, '{"a": {"b": [1, {"c": "q"}]}}'),
        ("{\n  \"name\": 1\n} {question}", {"question": "q"}, "{\n  \"name\": 1\n} q"),
        ("a set {1, 2} and {} and { spaced } and {0}", {}, "a set {1, 2} and {} and { spaced } and {0}"),
        ("{{name}} is literal, {name} is not", {"name": "Ada"}, "{name} is literal, Ada is not"),
        ("{question} {left_open", {"question": "q"}, "q {left_open"),
        ("{question}", {"question": "{other} {question}"}, "{other} {question}"),
        ("{question} {example}", {"question": "q"}, "q {example}"),
        ("{größe}", {"größe": "XL"}, "XL"),
        ("{x}", {"x": None}, "None"),
        ("", {}, ""),
    ],
)  # fmt: skip
def test_format_fills_placeholders_and_keeps_other_braces(template: str, values: dict[str, Any], prompt: str) -> None:
    assert PromptTemplate(template=template).format(**values) == prompt


def test_format_names_missing_placeholder() -> None:
    with pytest.raises(PromptError, match=r"needs \{question\}, but got \{task\}") as caught:
        PromptTemplate(template="{question}").format(task="q")

    assert caught.value.field == "question"


@pytest.mark.parametrize(
    "template",
    [
        "{x.__class__}", "{x.__class__.__mro__}", "{x.real}", "{x[0]}", "{x[__class__]}", "{x!r}", "{x!s:>9}",
        "{x:>1000000000}", "{x:0100}", "{x:.999f}", "{x:~^20}", "{x:%Y}",
    ],
)  # fmt: skip
def test_template_cannot_access_attributes_or_allocate_excessively(template: str) -> None:
    with pytest.raises(PromptError, match="not allowed") as caught:
        PromptTemplate(template=template).format(x=1)

    assert caught.value.field == "x"


def test_nested_format_spec_is_not_expanded() -> None:
    assert PromptTemplate(template="{x:{width}}").format(x=1, width=10**9) == "{x:1000000000}"


def test_format_names_placeholder_with_wrong_value() -> None:
    with pytest.raises(PromptError, match=r"value of \{price:.2f\} cannot be formatted"):
        PromptTemplate(template="{price:.2f}").format(price="cheap")


def test_placeholders_are_listed_in_order() -> None:
    assert PromptTemplate(template='{b} {a:.2f} {{c}} {"d": 1} {b}').placeholders() == ["b", "a"]


def test_jinja_template_is_rendered() -> None:
    template = PromptTemplate(template="{% for w in words %}{{ w|upper }} {% endfor %}", engine="jinja")

    assert template.format(words=["a", "b"]) == "A B "


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ f.__globals__ }}",
        "{{ f.__init__.__globals__['os'] }}",
        "{{ items.append(1) }}",
        "{{ missing }}",
        "{{ unclosed",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ items + 1 }}",
    ],
)
def test_jinja_template_cannot_escape_sandbox_or_crash(template: str) -> None:
    with pytest.raises(PromptError):
        PromptTemplate(template=template, engine="jinja").format(items=[], f=attempted)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 2000000000 }}",
        "{{ [0] * 10**9 }}",
        "{{ 10 ** (10 ** 9) }}",
        "{{ 'a' | center(10**9) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ range(10)|map('center', 1000000000)|list }}",
        "{{ ('a' * 10000).replace('a', 'b' * 10000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ lipsum(n=10**6) }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% set x %}{% for i in range(90000) %}" + "t" * 50_000 + "{% endfor %}{% endset %}",
        *("{% set x = 'ab' %}" + doubling * 40 + "{{ x }}" for doubling in (
            "{% set x = x ~ x %}", "{% set x = [x, x] %}", "{% set x = range(2)|map(attribute='q', default=x)|list %}",
        )),
        "{{ 1 }}" * 200_000,
        "{{ 1" + "_0" * 1_000_000 + " }}",
    ],
    ids=lambda template: template[:70],
)  # fmt: skip
def test_jinja_template_with_excessive_work_is_refused_quickly(template: str) -> None:
    PromptTemplate(template="{{ 1 }}", engine="jinja").format()  # imports jinja2
    started = time.process_time()

    with pytest.raises(PromptError):
        PromptTemplate(template=template, engine="jinja").format()

    assert time.process_time() - started < 1


def test_refusals_name_the_limit_of_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PromptError, match=r"more than 100000 steps \(PromptTemplate.max_steps\)"):
        PromptTemplate(template="{{ 'a' * 10**8 }}", engine="jinja").format()

    monkeypatch.setattr(PromptTemplate, "max_length", 10)
    assert PromptTemplate(template="{{ 'a' * 10 }}", engine="jinja").format() == "a" * 10
    for template, engine in (("{{ 'a' * 11 }}", "jinja"), ("{a}{a}", "f-string")):
        with pytest.raises(PromptError, match=r"longer than 10 characters \(PromptTemplate.max_length\)"):
            PromptTemplate.model_validate({"template": template, "engine": engine}).format(a="123456")


def test_jinja_template_can_use_macros_filters_and_blocks() -> None:
    template = (
        "{% macro item(name) %}* {{ name }}{{ caller() }}{% endmacro %}"
        "{% for name in names[1:] %}{% call item(name|upper) %}!{% endcall %}{{ ', ' if not loop.last }}{% endfor %}\n"
        "{% set ns = namespace(n=0) %}{% for name in names %}{% set ns.n = ns.n + name|length %}{% endfor %}{{ ns.n }}"
        "{% filter upper %}x{% endfilter %}{% set t | trim %} y {% endset %}{{ t }} {{ '%.1f' % 2.5 }} {{ '-' * 3 }}\n"
        "{{ ' '.join(names) }} {{ names|join('+') }} {{ {'k': 1}|tojson(indent=1) }} {{ 2 ** 10 }}"
        "{% for node in tree recursive %}<{{ node.name }}{{ loop(node.children) }}>{% endfor %}"
    )
    tree = [{"name": "a", "children": [{"name": "b", "children": []}]}]

    prompt = PromptTemplate(template=template, engine="jinja").format(names=["a", "b", "cc"], tree=tree)

    assert prompt == '* B!, * CC!\n4Xy 2.5 ---\na b cc a+b+cc {\n "k": 1\n} 1024<a<b>>'


def test_unknown_engine_is_rejected() -> None:
    with pytest.raises(ValidationError, match="engine"):
        PromptTemplate(template="x", engine="mustache")  # type: ignore[arg-type]


def test_poml_is_refused_before_rendering() -> None:
    template = PromptTemplate.model_validate_json('{"engine": "poml", "template": "<p>{{ 1 }} {x}</p>"}')

    assert template.placeholders() == ["x"]
    with pytest.raises(PromptError, match=r"POML .* runs code .* render it yourself") as caught:
        template.format(x=1)
    assert caught.value.field == "engine"


@pytest.mark.parametrize(
    ("head", "repeated"),
    [
        ("{a.", ":"),
        ("{a", "_"),
        ("", "{a"),
        ("", "{{"),
        ("", "{{a"),
        ("", "{a:"),
        ("", "{a["),
        ("{a:", "9"),
        ("{a[", "]!:."),
    ],
)
def test_parsing_time_of_placeholders_is_linear(head: str, repeated: str) -> None:
    template = PromptTemplate(template=head + repeated * 200_000)
    started = time.process_time()

    template.placeholders()
    template.format()

    assert time.process_time() - started < 1


# Hooks


async def test_default_hooks_do_nothing() -> None:
    hook = Hook()

    for name in ("on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"):
        method = getattr(hook, name)
        parameters = inspect.signature(method).parameters.values()
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
        assert await method(**{parameter.name: None for parameter in parameters}) is None
