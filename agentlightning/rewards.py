"""Parsing of the rewards in spans, in all supported formats.

The formats, newest first:

- numbered attributes: `agentlightning.reward.N.name` and `agentlightning.reward.N.value`
- the attribute `reward`, which older releases recorded
- a span named `reward` with an attribute `value`, as in the tutorial of older releases
- AgentOps's JSON in the output attribute of a task
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

import orjson

from . import semconv

AGENTOPS_OUTPUTS: Final = ("agentops.task.output", "agentops.entity.output")
TUTORIAL_SPAN: Final = "reward"
_PRIMARY = "primary"
_MAX_OUTPUT = 10_000
"""Maximum length of an AgentOps output that is parsed as a reward. A longer one may contain millions of values."""


class Reward(NamedTuple):
    """A named reward value."""

    name: str
    value: float


def rewards_in(name: str, attributes: Mapping[str, Any]) -> list[Reward]:
    """Return all rewards in a span with this name and these attributes. The primary reward is the first.

    Return an empty list for a span that arrived after the end of its attempt, because the reward was already final.
    """
    if attributes.get(semconv.LATE):
        return []
    return [reward for reward in _parse(name, attributes) if reward is not None]


def _parse(name: str, attributes: Mapping[str, Any]) -> Iterable[Reward | None]:
    if found := list(_numbered(attributes)):
        return found
    if name in (semconv.REWARD, semconv.ANNOTATION) and "reward" in attributes:
        return [_reward(attributes["reward"])]
    if name == TUTORIAL_SPAN:
        return [_reward(attributes.get("value"))]
    return [_agentops(attributes[key]) for key in AGENTOPS_OUTPUTS if key in attributes][:1]


def _numbered(attributes: Mapping[str, Any]) -> Iterator[Reward | None]:
    n = 0
    while (key := f"{semconv.REWARDS}.{n}.value") in attributes:
        yield _reward(attributes[key], str(attributes.get(f"{semconv.REWARDS}.{n}.name", _PRIMARY)))
        n += 1


def _agentops(output: Any) -> Reward | None:
    if isinstance(output, (str, bytes)) and len(output) > _MAX_OUTPUT:
        return None
    try:
        value = orjson.loads(output) if isinstance(output, (str, bytes)) else output
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict):
        return None
    entry = cast("dict[str, Any]", value)
    return _reward(entry.get("value")) if entry.get("type") == "reward" else None


def _reward(value: Any, name: str = _PRIMARY) -> Reward | None:
    # Only finite numbers are rewards. A missing reward is not the same as 0.
    if isinstance(value, (int, float)) and math.isfinite(value):
        return Reward(name, float(value))
    return None
