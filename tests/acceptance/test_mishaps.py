"""The tutorial goes on when a part of it is killed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentlightning.types import RolloutConfig
from tests.acceptance.stage import Held, Stage
from tests.acceptance.test_tutorial import finished, rollout_ids
from tests.scripted_model import ScriptedModel


@pytest.fixture
def held(request: pytest.FixtureRequest) -> Held:
    return Held(request.param)


@pytest.fixture
def stage(held: Held, tmp_path: Path) -> Iterator[Stage]:
    with ScriptedModel(held, takes_call=True) as model, Stage(tmp_path, model.base_url) as stage:
        yield stage
        held.let_go.set()


@pytest.mark.parametrize("held", [2], indirect=True)
async def test_a_store_that_is_killed_and_comes_back_costs_nothing(held: Held, stage: Stage) -> None:
    store, runner, algo = stage.store(), stage.runner(), stage.algo()
    assert held.asked.wait(60)

    store.kill()
    held.let_go.set()
    algo.wait_for_line("is away")
    runner.wait_for_line("is away")
    stage.store()

    assert algo.wait() == 0
    finished(algo)
    runner.wait_for_line("is back")
    async with stage.client() as client:
        for rollout_id in rollout_ids(algo):
            rollout = await client.get_rollout_by_id(rollout_id)
            assert rollout is not None
            assert rollout.status == "succeeded"
            assert [attempt.status for attempt in await client.query_attempts(rollout_id)] == ["succeeded"]
            spans = await client.query_spans(rollout_id)
            assert [span.name for span in spans].count("openai.chat.completion") == 1


@pytest.mark.slow
@pytest.mark.parametrize("held", [1], indirect=True)
async def test_a_rollout_whose_runner_is_killed_has_failed_within_31_seconds(held: Held, stage: Stage) -> None:
    stage.store()
    runner, algo = stage.runner(), stage.algo()
    assert held.asked.wait(60)

    runner.kill()
    killed = time.time()
    result = algo.wait_for_line(r"^\[Algo\] Received Result: (.*)")[1]

    assert '"status":"failed"' in result
    assert float(re.search(r'"end_time":([\d.]+)', result)[1]) - killed <= 31
    algo.wait_for_line(r"^\[Algo\] Final reward: None")


@pytest.mark.parametrize("held", [1], indirect=True)
async def test_another_runner_retries_where_the_rollout_says_so(held: Held, stage: Stage) -> None:
    config = RolloutConfig(max_attempts=2, retry_condition=["unresponsive"], unresponsive_seconds=2)
    stage.store()
    runner = stage.runner()
    async with stage.client() as client:
        await client.add_resources({"prompt_template": "{any_question}"})
        rollout = await client.enqueue_rollout("Why is the sky blue?", config=config)
        assert held.asked.wait(60)

        runner.kill()
        held.let_go.set()
        stage.runner()
        (ended,) = await client.wait_for_rollouts([rollout.rollout_id], timeout=60)

        assert ended.status == "succeeded"
        attempts = await client.query_attempts(rollout.rollout_id)
        assert [attempt.status for attempt in attempts] == ["unresponsive", "succeeded"]
