"""The tutorial continues after one of its programs is killed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_tutorial import assert_finished, rollout_ids
from tests.acceptance.tutorial_programs import BlockedAnswer, TutorialPrograms
from tests.processes import TIMEOUT
from tests.scripted_model import ScriptedModel


@pytest.fixture
def blocked(request: pytest.FixtureRequest) -> BlockedAnswer:
    return BlockedAnswer(request.param)


@pytest.fixture
def programs(blocked: BlockedAnswer, tmp_path: Path) -> Iterator[TutorialPrograms]:
    with (
        ScriptedModel(blocked, takes_call=True) as model,
        TutorialPrograms(tmp_path, model.base_url) as programs,
    ):
        yield programs
        blocked.release.set()


@pytest.mark.parametrize("blocked", [2], indirect=True)
async def test_restart_of_a_killed_store_loses_nothing(blocked: BlockedAnswer, programs: TutorialPrograms) -> None:
    store, runner, algo = programs.store(), programs.runner(), programs.algo()
    assert blocked.called.wait(TIMEOUT)

    store.kill()
    blocked.release.set()
    algo.wait_for_line("is unreachable")
    runner.wait_for_line("is unreachable")
    programs.store()

    assert algo.wait() == 0
    assert_finished(algo)
    runner.wait_for_line("responding again")
    async with programs.client() as client:
        for rollout_id in rollout_ids(algo):
            rollout = await client.get_rollout_by_id(rollout_id)
            assert rollout is not None
            assert rollout.status == "succeeded"
            assert [attempt.status for attempt in await client.query_attempts(rollout_id)] == ["succeeded"]
            spans = await client.query_spans(rollout_id)
            assert [span.name for span in spans].count("openai.chat.completion") == 1


@pytest.mark.slow
@pytest.mark.parametrize("blocked", [1], indirect=True)
async def test_rollout_of_a_killed_runner_fails_within_31_seconds(
    blocked: BlockedAnswer, programs: TutorialPrograms
) -> None:
    programs.store()
    runner, algo = programs.runner(), programs.algo()
    assert blocked.called.wait(TIMEOUT)

    runner.kill()
    killed = time.time()
    result = algo.wait_for_line(r"^\[Algo\] Received Result: (.*)", timeout=31 + TIMEOUT)[1]

    assert '"status":"failed"' in result
    assert float(re.search(r'"end_time":([\d.]+)', result)[1]) - killed <= 31
    algo.wait_for_line(r"^\[Algo\] Final reward: None")
