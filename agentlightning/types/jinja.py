"""Rendering of jinja prompt templates with limits on work and output, because models may write the templates.

jinja's sandbox prevents access to Python's internals, but not expressions such as `{{ 'a' * 10**9 }}`. Therefore, the
number of steps is limited. Each loop iteration and each expression uses one step, and an expression uses one more for
every `CHARACTERS_PER_STEP` characters of its value. If an operation's result may be much longer than its operands, its
steps are counted before it is executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache, wraps
from itertools import chain
from types import CodeType
from typing import Any, cast

from jinja2 import StrictUndefined, nodes, pass_context
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ..errors import PromptError

CHARACTERS_PER_STEP = 128
STEPS_PER_TOKEN = 40
STEPS_PER_CALL = 5
MAX_SOURCE = 512 * 1024
"""Maximum length of a template in characters. jinja's lexer may need 80 bytes of memory per character."""
MAX_DIGITS = 4_300
"""Maximum number of digits of a number in a template and of an integer that it computes.

By default, Python does not convert longer integers to text.
"""

_CHARACTERS_PER_ITEM = 8  # the size of a pointer
_CHARGE, _CHARGE_ITEMS = " charge", " charge items"  # the spaces prevent templates from using these filters by name
_AMPLIFYING_METHODS = frozenset(
    {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "to_bytes", "translate", "zfill"}
)
_PREPAID_FILTERS = (
    *("batch", "center", "format", "groupby", "indent", "join", "list", "map", "max", "min", "reject", "rejectattr"),
    *("replace", "round", "select", "selectattr", "slice", "sort", "sum", "tojson", "unique"),
)
# Filters whose running time is not linear in the length of their input.
_EXCLUDED_FILTERS = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")


def render(template: str, values: Mapping[str, Any], *, max_length: int, max_steps: int) -> str:
    """Return the rendered template. Raises `PromptError` if the template exceeds a limit."""
    environment = _Environment(max_steps)
    code = _compiled(template, max_steps)
    runnable = environment.template_class.from_code(environment, code, environment.make_globals(None))
    pieces: list[str] = []
    length = 0
    for piece in runnable.generate(dict(values)):
        pieces.append(piece)
        length += len(piece)
        if length > max_length:
            raise PromptError(f"the rendered prompt is longer than {max_length} characters (PromptTemplate.max_length)")
    return "".join(pieces)


@lru_cache(maxsize=64)
def _compiled(template: str, max_steps: int) -> CodeType:
    if len(template) > MAX_SOURCE:
        raise PromptError(
            f"the jinja prompt template is longer than {MAX_SOURCE} characters; pass long texts as values"
        )
    if any(len(number) > MAX_DIGITS for number in re.findall(r"[\d_]++", template)):
        raise PromptError(f"a number in the jinja prompt template has more than {MAX_DIGITS} digits")
    environment = _Environment(max_steps)
    return environment.compile(cast("nodes.Template", _Meter().visit(environment.parse(template))))


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox that renders one template and stops when the template has used all of its steps."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, max_steps: int) -> None:
        super().__init__(undefined=StrictUndefined, optimized=False, extensions=[_TokenCounter])
        self._max_steps = self._steps_left = max_steps
        self._weights: dict[int, tuple[object, int]] = {}
        """The weights of containers by id. The containers are kept, so that no other object can get the same id."""
        del self.globals["lipsum"]
        self.globals["namespace"] = _OpaqueNamespace
        for name in _EXCLUDED_FILTERS:
            del self.filters[name]
        self.filters |= {name: self._prepaid(name) for name in _PREPAID_FILTERS}
        self.filters |= {_CHARGE: self._charge, _CHARGE_ITEMS: self._charge_items}

    def spend(self, steps: int, characters: int = 0) -> None:
        """Use up `steps`, and one more for every `CHARACTERS_PER_STEP` characters.

        Raises `PromptError` if fewer steps are left.
        """
        self._steps_left -= steps + characters // CHARACTERS_PER_STEP
        if self._steps_left < 0:
            raise PromptError(
                f"the jinja prompt template needs more than {self._max_steps} steps (PromptTemplate.max_steps); "
                "shorten its loops and repetitions, or pass the text that they produce as a value"
            )

    @pass_context
    def _charge(self, _: Context, value: Any) -> Any:
        self.spend(1, self._weight(value))
        return value

    @pass_context
    def _charge_items(self, _: Context, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(1)
            yield item

    def _weight(self, value: Any) -> int:
        """Return the approximate number of characters in `value`. A part that occurs repeatedly counts each time."""
        if isinstance(value, (str, bytes)):
            return len(value)
        if isinstance(value, int):
            return value.bit_length() // 3
        if isinstance(value, range):
            return len(value) * _CHARACTERS_PER_ITEM
        if not isinstance(value, (list, tuple, dict, set, frozenset)):
            return 1
        items = cast("Collection[Any]", value)
        if id(items) not in self._weights:
            self._weights[id(items)] = items, 0  # a container may contain itself
            self.spend(len(items) // 2)
            parts = chain(items, cast("dict[Any, Any]", value).values()) if isinstance(value, dict) else items
            weight = sum(_CHARACTERS_PER_ITEM + self._weight(part) for part in parts)
            self._weights[id(items)] = items, weight
        return self._weights[id(items)][1]

    # Operations whose results may be much longer than their operands

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            if isinstance(left, (str, bytes)):
                self.spend(0, self._formatted_length(left, self._weight(right)))
        elif isinstance(left, int) and isinstance(right, int):
            digits = (
                self._weight(left) * max(right, 0) if operator == "**" else self._weight(left) + self._weight(right)
            )
            if digits > MAX_DIGITS:
                raise PromptError(f"an integer in the jinja prompt template has more than {MAX_DIGITS} digits")
        elif operator == "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(count, int) and count > 0:
                    self.spend(0, self._weight(sequence) * count)
        elif isinstance(right, int) and abs(right) > MAX_DIGITS and not isinstance(left, float):
            raise PromptError(f"an exponent in the jinja prompt template is larger than {MAX_DIGITS}")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.spend(STEPS_PER_CALL)
        text, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(text, (str, bytes)) and name == "join":
            args = (list(args[0]),)
            self.spend(0, self._result_length("join", args[0], text))
        elif isinstance(text, (str, bytes)) and name == "replace":
            self.spend(0, _replaced_length(text, *args))
        return super().call(context, function, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr in _AMPLIFYING_METHODS and isinstance(obj, (str, bytes, int)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Return None, so that jinja does not wrap `str.format`. Instead, `is_safe_attribute` forbids it."""

    def _prepaid(self, name: str) -> Callable[..., Any]:
        """Return the filter `name`, wrapped so that the steps for its result are used up before it is executed."""
        original: Callable[..., Any] = cast("Any", self.filters)[name]
        at = 1 if hasattr(original, "jinja_pass_arg") else 0  # jinja passes its context or environment first

        @wraps(original)
        def function(*args: Any, **named: Any) -> Any:
            given = [*args]
            if isinstance(given[at], Iterator):
                given[at] = list(cast("Iterator[Any]", given[at]))
            self.spend(0, self._result_length(name, *given[at:], **named))
            return original(*given, **named)

        return function

    def _result_length(self, name: str, value: Any, *args: Any, **named: Any) -> int:
        given = [*args, *named.values()]
        number = max((abs(each) for each in given if isinstance(each, int)), default=0)
        weight = sum(self._weight(each) for each in given)
        match name:
            case "batch" | "slice":
                return _items_length(value) + number * (_CHARACTERS_PER_ITEM + weight)
            case "center":
                return number
            case "format":
                return self._formatted_length(value, weight)
            case "indent":
                return (4 + number + weight) * (str(value).count("\n") + 1)
            case "join":
                return self._weight(value) + len(value) * weight
            case "replace":
                return _replaced_length(str(value), *args, **named)
            case "round":
                return CHARACTERS_PER_STEP * number
            case "sum":
                return len(value) * (weight + self._weight(value))
            case "tojson":
                return self._weight(value) * (1 + number)
            case _:
                return _items_length(value)

    def _formatted_length(self, text: str | bytes, weight: int) -> int:
        shown = text if isinstance(text, str) else text.decode("latin-1")
        if re.search(r"\d{3}|\*", shown):
            raise PromptError(
                "a format string in the jinja prompt template contains `*` or a number with more than two digits"
            )
        return shown.count("%") * (100 + weight)


class _TokenCounter(Extension):
    """Counts the steps for each token of a template before jinja compiles the template."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        for token in stream:
            cast("_Environment", self.environment).spend(STEPS_PER_TOKEN)
            yield token


class _OpaqueNamespace(Namespace):
    """A namespace that is printed without its contents, which may contain other namespaces any number of times."""

    __repr__ = object.__repr__


class _Meter(NodeTransformer):
    """Adds filters to a parsed template. They count the steps of its expressions and loops."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        visited = super().generic_visit(node, *args, **kwargs)
        is_value = isinstance(visited, nodes.Expr) and not isinstance(visited, (nodes.Slice, nodes.NSRef))
        return _filtered(visited, _CHARGE) if is_value and getattr(visited, "ctx", "load") == "load" else visited

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _CHARGE_ITEMS)
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.call = cast("Any", node.call).node  # jinja requires the call itself here
        return node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


def _items_length(value: Any) -> int:
    return len(value) * CHARACTERS_PER_STEP // 2


def _replaced_length(text: Any, old: Any = "", new: Any = "", *_: Any) -> int:
    return len(text) + text.count(old) * len(new)
