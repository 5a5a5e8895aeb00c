"""Which method of a class agent carries out which rollout."""

from __future__ import annotations

from typing import Any

import pytest

import agentlightning as agl
from agentlightning.errors import AgentError

ROLLOUT: Any = None


def result(agent: agl.LitAgent[str], mode: agl.RolloutMode | None) -> Any:
    return agent.method_for(mode)("task", {}, ROLLOUT)


class OneForAll(agl.LitAgent[str]):
    def rollout(self, task, resources, rollout):
        return 1.0


class ByMode(agl.LitAgent[str]):
    def training_rollout(self, task, resources, rollout):
        return 0.1

    def validation_rollout(self, task, resources, rollout):
        return 0.2


class TrainingApart(OneForAll):
    async def training_rollout_async(self, task, resources, rollout):
        return 0.5 + (self.rollout(task, resources, rollout) or 0.0)


class OnlyTraining(agl.LitAgent[str]):
    async def training_rollout_async(self, task, resources, rollout):
        return 0.0


class Inheriting(ByMode):
    def training_rollout(self, task, resources, rollout):
        return 10 + super().training_rollout(task, resources, rollout)


@pytest.mark.parametrize("mode", ["train", "val", "test", None])
def test_rollout_serves_every_mode(mode):
    assert result(OneForAll(), mode) == 1.0


@pytest.mark.parametrize(("mode", "expected"), [("train", 0.1), ("val", 0.2), ("test", 0.2), (None, 0.2)])
def test_training_and_validation_go_by_mode(mode, expected):
    assert result(ByMode(), mode) == expected


async def test_the_most_particular_method_goes_first_and_may_use_the_others():
    assert await result(TrainingApart(), "train") == 1.5
    assert result(TrainingApart(), "val") == 1.0


def test_inherited_methods_count():
    assert result(Inheriting(), "train") == 10.1
    assert result(Inheriting(), "val") == 0.2


def test_a_mode_without_a_method_is_an_error_that_says_what_to_define():
    with pytest.raises(AgentError, match="OnlyTraining has no method for a rollout of mode val: define rollout or"):
        OnlyTraining().method_for("val")


async def test_forms_call_each_other_by_default():
    class Async(agl.LitAgent[str]):
        async def rollout_async(self, task, resources, rollout):
            return 7

    agent = Async()
    assert await agent.training_rollout_async("t", {}, ROLLOUT) == 7
    assert await agent.validation_rollout_async("t", {}, ROLLOUT) == 7
    assert OneForAll().training_rollout("t", {}, ROLLOUT) == 1.0
    with pytest.raises(NotImplementedError, match="Async does not define rollout"):
        agent.validation_rollout("t", {}, ROLLOUT)
