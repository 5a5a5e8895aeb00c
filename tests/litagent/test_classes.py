"""Choice of a class agent's method by the mode of the rollout."""

from __future__ import annotations

from typing import Any

import pytest

import agentlightning as agl
from agentlightning.errors import AgentError

ROLLOUT: Any = None


def result(agent: agl.LitAgent[str], mode: agl.RolloutMode | None) -> Any:
    return agent.method_for(mode)("task", {}, ROLLOUT)


class OneMethod(agl.LitAgent[str]):
    def rollout(self, task, resources, rollout):
        return 1.0


class ByMode(agl.LitAgent[str]):
    def training_rollout(self, task, resources, rollout):
        return 0.1

    def validation_rollout(self, task, resources, rollout):
        return 0.2


class AsyncTraining(OneMethod):
    async def training_rollout_async(self, task, resources, rollout):
        return 0.5 + (self.rollout(task, resources, rollout) or 0.0)


class OnlyTraining(agl.LitAgent[str]):
    async def training_rollout_async(self, task, resources, rollout):
        return 0.0


class Inherited(ByMode):
    def training_rollout(self, task, resources, rollout):
        return 10 + super().training_rollout(task, resources, rollout)


@pytest.mark.parametrize("mode", ["train", "val", "test", None])
def test_rollout_method_serves_every_mode(mode):
    assert result(OneMethod(), mode) == 1.0


@pytest.mark.parametrize(("mode", "expected"), [("train", 0.1), ("val", 0.2), ("test", 0.2), (None, 0.2)])
def test_mode_selects_training_or_validation_method(mode, expected):
    assert result(ByMode(), mode) == expected


async def test_most_specific_method_is_preferred_and_can_call_others():
    assert await result(AsyncTraining(), "train") == 1.5
    assert result(AsyncTraining(), "val") == 1.0


def test_inherited_methods_are_found():
    assert result(Inherited(), "train") == 10.1
    assert result(Inherited(), "val") == 0.2


def test_mode_without_method_raises_error_that_names_methods_to_define():
    with pytest.raises(AgentError, match="OnlyTraining has no method for a rollout in mode val: define rollout or"):
        OnlyTraining().method_for("val")


async def test_default_methods_delegate_to_rollout():
    class Async(agl.LitAgent[str]):
        async def rollout_async(self, task, resources, rollout):
            return 7

    agent = Async()
    assert await agent.training_rollout_async("t", {}, ROLLOUT) == 7
    assert await agent.validation_rollout_async("t", {}, ROLLOUT) == 7
    assert OneMethod().training_rollout("t", {}, ROLLOUT) == 1.0
    with pytest.raises(NotImplementedError, match="Async does not define rollout"):
        agent.validation_rollout("t", {}, ROLLOUT)
