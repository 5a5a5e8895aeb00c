"""Prompt templates: placeholders, the jinja engine and its limits, and the refusal of POML."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from agentlightning.errors import PromptError
from agentlightning.types import PromptTemplate

from .test_types import attempted


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
