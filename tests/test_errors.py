"""The tree of exceptions: it matches the module's docstring and the published HTTP statuses."""

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

LINE = re.compile(r"(?P<indent>[│ ]*)[├└]── (?P<name>\w+) *(?:\((?P<also>[\w, ]+)\))?(?P<rest>.*)")


def documented_tree() -> dict[str, tuple[str, set[str], int | None]]:
    """Parse the module's docstring: name → (parent, built-in bases, status if there is one)."""
    path = ["AgentLightningError"]
    tree: dict[str, tuple[str, set[str], int | None]] = {}
    for line in (errors.__doc__ or "").splitlines():
        if not (match := LINE.match(line)):
            continue
        depth = len(match["indent"]) // 4 + 1
        also = {word.strip() for word in (match["also"] or "").split(",")} - {""}
        status = re.search(r"\d{3}$", match["rest"].strip())
        tree[match["name"]] = (path[depth - 1], also, int(status[0]) if status else None)
        path[depth:] = [match["name"]]
    return tree


def make(error: type[AgentLightningError]) -> AgentLightningError:
    return error("jinja", wanted_for="a test") if error is MissingExtra else error("a message")


def test_documented_tree_matches_classes() -> None:
    actual = {
        cls.__name__: (
            next(base.__name__ for base in cls.__bases__ if issubclass(base, AgentLightningError)),
            {base.__name__ for base in cls.__bases__ if not issubclass(base, AgentLightningError)},
        )
        for cls in CLASSES
        if cls is not AgentLightningError
    }

    assert {name: (parent, also) for name, (parent, also, _) in documented_tree().items()} == actual


def test_documented_statuses_match_classes() -> None:
    assert {name: getattr(errors, name).status for name, (_, _, status) in documented_tree().items() if status} == {
        name: status for name, (_, _, status) in documented_tree().items() if status
    }


def test_statuses_are_the_published_ones() -> None:
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


@pytest.mark.parametrize("error", [cls for cls in CLASSES if cls is not MissingExtra])
def test_default_message_is_docstring(error: type[AgentLightningError]) -> None:
    assert error.__doc__
    assert str(error()) == error.__doc__.splitlines()[0]


@pytest.mark.parametrize("error", CLASSES)
def test_error_can_be_pickled(error: type[AgentLightningError]) -> None:
    before = make(error)
    before.field = "input"

    after = pickle.loads(pickle.dumps(before))

    assert (type(after), str(after), after.field) == (error, str(before), "input")


def test_not_found_is_value_error_and_lookup_error() -> None:
    for expected in (ValueError, LookupError, AgentLightningError):
        with pytest.raises(expected, match=r"^rollout ro-1 is not here$"):
            raise NotFound("rollout ro-1 is not here")


def test_error_names_invalid_field() -> None:
    assert InvalidInput("no such field", field="sort_by").field == "sort_by"
    assert InvalidInput("something").field is None


def test_missing_extra_says_what_to_install() -> None:
    assert str(MissingExtra("jinja", wanted_for="a jinja prompt template")) == (
        "a jinja prompt template needs an optional library: pip install 'agentlightning[jinja]'"
    )
