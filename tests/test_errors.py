"""The class hierarchy of exceptions: its documentation, HTTP statuses and messages."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from agentlightning import errors
from agentlightning.errors import AgentLightningError, InvalidInput, MissingExtra, NotFound

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, AgentLightningError) and value.__module__ == errors.__name__
]

LINE = re.compile(r"(?P<indent>[│ ]*)[├└]── (?P<name>\w+) *(?:\((?P<builtins>[\w, ]+)\))?(?P<rest>.*)")


def drawn_tree() -> dict[str, tuple[str, set[str], int | None]]:
    """Return the tree of the module's docstring: name → (parent, built-in bases, status if written)."""
    path = ["AgentLightningError"]
    tree: dict[str, tuple[str, set[str], int | None]] = {}
    for line in (errors.__doc__ or "").splitlines():
        if not (match := LINE.match(line)):
            continue
        depth = len(match["indent"]) // 4 + 1
        builtins = {word.strip() for word in (match["builtins"] or "").split(",")} - {""}
        status = re.search(r"\d{3}$", match["rest"].strip())
        tree[match["name"]] = (path[depth - 1], builtins, int(status[0]) if status else None)
        path[depth:] = [match["name"]]
    return tree


def test_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    tree = {
        cls.__name__: (
            next(base.__name__ for base in cls.__bases__ if issubclass(base, AgentLightningError)),
            {base.__name__ for base in cls.__bases__ if not issubclass(base, AgentLightningError)},
        )
        for cls in CLASSES
        if cls is not AgentLightningError
    }

    assert {name: (parent, builtins) for name, (parent, builtins, _) in drawn_tree().items()} == tree


def test_statuses_in_the_docstring_are_those_of_the_classes() -> None:
    statuses = {name: status for name, (_, _, status) in drawn_tree().items() if status}

    assert {name: getattr(errors, name).status for name in statuses} == statuses


def test_statuses_are_those_of_the_published_api() -> None:
    assert {cls.__name__: cls.status for cls in CLASSES if cls.status != 500} == {
        "NotFound": 404,
        "WrongMethod": 405,
        "Conflict": 409,
        "FinalStatus": 409,
        "StaleAttempt": 409,
        "InvalidInput": 422,
        "TooLarge": 413,
        "TooSlow": 408,
        "PromptError": 422,
        "Unauthorized": 401,
        "Forbidden": 403,
        "StoreUnavailable": 503,
        "StoreBusy": 429,
    }


def test_default_message_is_the_first_line_of_the_docstring() -> None:
    for cls in CLASSES:
        if cls is not MissingExtra:
            assert cls.__doc__
            assert str(cls()) == cls.__doc__.splitlines()[0]


@pytest.mark.parametrize("cls", CLASSES)
def test_error_survives_pickling(cls: type[AgentLightningError]) -> None:
    before = cls("jinja", wanted_for="a test") if cls is MissingExtra else cls("a message")
    before.field = "input"

    after = pickle.loads(pickle.dumps(before))

    assert (type(after), str(after), after.field) == (cls, str(before), "input")


def test_not_found_is_a_value_error_and_a_lookup_error() -> None:
    for expected in (ValueError, LookupError, AgentLightningError):
        with pytest.raises(expected, match=r"^there is no rollout ro-1$"):
            raise NotFound("there is no rollout ro-1")


def test_error_names_the_invalid_field() -> None:
    assert InvalidInput("no such field", field="sort_by").field == "sort_by"
    assert InvalidInput("something").field is None


def test_missing_extra_names_the_package_to_install() -> None:
    assert str(MissingExtra("jinja", wanted_for="a jinja prompt template")) == (
        "a jinja prompt template needs an optional library: pip install 'agentlightning[jinja]'"
    )
