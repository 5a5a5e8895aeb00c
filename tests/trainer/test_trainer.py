"""The trainer in this process: forms of components, results, callbacks, `dev`."""

from __future__ import annotations

import functools
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.execution import ExecutionStrategy
from agentlightning.trainer import Callback, RunResult
from agentlightning.trainer.callbacks import RunProgress
from agentlightning.trainer.components import build
from agentlightning.trainer.display import failure_lines, progress_line, result_line


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def half(task: Any) -> float:
    return 0.5


def fails_on_odd_tasks(task: int) -> float | None:
    if task % 2:
        raise ValueError("odd")
    return task / 10 if task else None


def train(agent: Any, tasks: list[Any], **options: Any) -> RunResult:
    trainer = agl.Trainer(**{"strategy": "shm", "tracer": agl.OtelTracer, "progress": False} | options)
    return trainer.fit(agent, tasks)


class Named(agl.Baseline):
    """An algorithm for an import path."""


def make_algorithm() -> agl.Algorithm:
    return agl.Baseline()


@agl.algo
async def decorated(store: agl.LightningStore) -> int:
    return 7


HOOK_CALLS: list[bool] = []


class RecordingHook(agl.Hook):
    """Records its calls."""

    async def on_rollout_end(self, **about: Any) -> None:
        HOOK_CALLS.append(True)


@pytest.mark.parametrize(
    "algorithm",
    [
        None,
        agl.Baseline(),
        agl.Baseline,
        make_algorithm,
        functools.partial(agl.Baseline, n_epochs=1),
        "baseline",
        f"{__name__}:Named",
        f"{__name__}.make_algorithm",
        {"type": agl.Baseline, "n_epochs": 1},
        {"type": "baseline", "n_epochs": 1},
        {"type": "agentlightning.algorithm:Baseline"},
    ],
)
def test_algorithm_is_accepted_in_every_form(algorithm: Any):
    assert isinstance(agl.Trainer(algorithm=algorithm).algorithm, agl.Baseline)


def test_function_with_an_argument_of_algorithms_is_an_algorithm():
    async def plain(store: agl.LightningStore) -> int:
        return 8

    assert train(half, [], algorithm=f"{__name__}:decorated").returned == 7
    assert train(half, [], algorithm=plain).returned == 8


@pytest.mark.parametrize(
    "component",
    [
        {
            "tracer": f"{__name__}:agl.OtelTracer",
            "adapter": {"type": agl.TracerTraceToTriplet, "reward_match": "final"},
        },
        {"strategy": {"type": "shm", "n_runners": 2}, "store": agl.InMemoryLightningStore},
        {"strategy": "agentlightning:SharedMemoryExecutionStrategy", "store": "memory:"},
        {"runner": agl.LitAgentRunner, "store": {"type": agl.SqliteLightningStore, "path": "mine.db"}},
        {"runner": {"type": agl.LitAgentRunner, "poll_interval": 1.0}, "llm_proxy": "agentlightning:LLMProxy"},
        {"runner": lambda: agl.LitAgentRunner(agl.OtelTracer()), "llm_proxy": {"type": agl.LLMProxy}},
    ],
    ids=" ".join,
)
def test_components_are_accepted_in_every_form(component: dict[str, Any]):
    HOOK_CALLS.clear()

    result = train(half, [1], hooks=RecordingHook, **component)

    assert result.counts == {"succeeded": 1}
    assert HOOK_CALLS == [True]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no_such_module:Name", "unknown strategy 'no_such_module:Name': no module named 'no_such_module'"),
        ("agentlightning:Nothing", "unknown strategy 'agentlightning:Nothing': agentlightning has no 'Nothing'"),
        ("nonsense", "unknown strategy 'nonsense'; choose from 'cs', 'shm', or use an import path"),
        ({"n_runners": 2}, "the dict passed as strategy needs a 'type'"),
        (7, "strategy must be an instance, a class, a factory, an import path or a dict, not int"),
        (agl.Baseline, "strategy must be a ExecutionStrategy; .* returned a Baseline"),
    ],
)
def test_wrong_component_is_refused_with_a_reason(given: Any, message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        build(given, ExecutionStrategy, parameter="strategy", names={"cs": ExecutionStrategy, "shm": ExecutionStrategy})


def test_result_counts_failures_and_rewards_separately():
    result = train(fails_on_odd_tasks, [0, 1, 2, 3, 4], initial_resources={"prompt": "Do {it}"})

    assert result.counts == {"succeeded": 3, "failed": 2}
    [candidate] = result.history
    assert (candidate.resources_id, candidate.rollouts, candidate.failed, candidate.rewarded) == ("initial", 5, 2, 2)
    assert candidate.mean_reward == pytest.approx(0.3)
    assert candidate.standard_error == pytest.approx(0.1)
    assert result.best_resources == {"prompt": agl.PromptTemplate(template="Do {it}")}
    assert result.rewards == {"initial": pytest.approx(0.3)}
    kept = json.loads((result.folder / "result.json").read_text())
    assert kept["counts"] == result.counts


def test_callbacks_receive_all_events_and_may_fail():
    events: list[Any] = []

    class Broken(Callback):
        def on_start(self, folder: Path) -> None:
            raise OSError("no disk")

    class Recorder(Callback):
        def on_start(self, folder: Path) -> None:
            events.append(folder.name)

        def on_progress(self, progress: RunProgress) -> None:
            events.append(progress.done)

        def on_metrics(self, values: Any, step: int | None) -> None:
            events.append((dict(values), step))

        def on_end(self, result: RunResult) -> None:
            events.append(result.status)

    result = train(half, [1, 2], callbacks=[Broken(), Recorder()])

    assert events[0] == result.name
    assert events[-2:] == [2, "finished"]
    assert ({"train/mean_reward": 0.5}, 1) in events
    lines = [json.loads(text) for text in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert any(entry.get("train/mean_reward") == 0.5 and entry["step"] == 1 for entry in lines)
    assert lines[-1]["rollouts/succeeded"] == 2


def test_dev_runs_in_this_process():
    threads: list[str] = []

    def agent(task: int) -> float:
        threads.append(threading.current_thread().name)
        return 1.0

    result = agl.Trainer(tracer=agl.OtelTracer(), progress=False, strategy="cs", n_runners=3).dev(agent, [1, 2])

    assert result.counts == {"succeeded": 2}
    assert len(threads) == 2


async def test_fit_works_inside_a_running_event_loop():
    assert train(half, [1]).counts == {"succeeded": 1}


def test_dev_requires_a_fast_algorithm():
    class Slow(agl.Algorithm):
        pass

    with pytest.raises(TypeError, match="dev needs a FastAlgorithm, and Slow is not one"):
        agl.Trainer(algorithm=Slow()).dev(half, [1])


def test_max_concurrency_runs_several_rollouts_at_once():
    together = threading.Barrier(4, timeout=15)

    def agent(task: int) -> float:
        together.wait()
        return 1.0

    assert train(agent, [1, 2, 3, 4], max_concurrency=4).counts == {"succeeded": 4}


def test_store_given_as_an_instance_stays_open():
    store = agl.InMemoryLightningStore()

    train(half, [1], store=store)
    train(half, [1], store=store)

    import asyncio

    assert asyncio.run(store.statistics())["rollouts"]["succeeded"] == 4  # including a journal session for each run
    asyncio.run(store.close())


@pytest.mark.parametrize("strategy", ["cs", "shm"])
def test_queued_rollouts_fail_the_run_when_all_runners_are_done(strategy: str):
    with pytest.raises(ValueError, match="max_rollouts"):
        train(half, [1, 2, 3], strategy=strategy, max_rollouts=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_runners": 0}, "n_runners must be at least 1, not 0"),
        ({"max_concurrency": 0}, "max_concurrency must be at least 1, not 0"),
        (
            {"initial_resources": agl.PromptTemplate(template="x")},
            "initial_resources must be a dict of resources by name",
        ),
        ({"initial_resources": {"p": {"a": 1}}}, "needs a 'resource_type'"),
        ({"hooks": [3]}, "hooks must be an instance"),
    ],
)
def test_wrong_setting_is_named_before_the_run(options: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        agl.Trainer(**options)


@pytest.mark.parametrize("tasks", [(n for n in range(3)), {"a": 1}, 7])
def test_dataset_without_length_and_items_is_refused(tasks: Any):
    with pytest.raises(TypeError, match="train_dataset must be a list or support len"):
        train(half, tasks)


def test_failures_are_grouped_by_reason():
    result = train(fails_on_odd_tasks, [0, 1, 2, 3])

    assert result.failures == {"ValueError: odd": 2}
    assert failure_lines(result) == ["  2 failed: ValueError: odd"]


def test_each_run_has_its_own_log():
    first, second = train(half, [1]), train(half, [1, 2])

    assert (first.folder / "log.txt").read_text().count("Completed in") == 1
    assert (second.folder / "log.txt").read_text().count("Completed in") == 2


def test_run_log_does_not_change_configured_logging(capsys: pytest.CaptureFixture[str]):
    logger = agl.setup_logging("ERROR")
    try:
        result = train(fails_on_odd_tasks, [0, 1])
        logger.warning("not this")
        logger.error("but this")
    finally:
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)

    stderr = capsys.readouterr().err
    assert "Completed in" not in stderr
    assert "Failed in" in stderr
    assert "not this" not in stderr
    assert "but this" in stderr
    assert "Completed in" in (result.folder / "log.txt").read_text()


def test_sync_algorithm_may_block():
    @agl.algo
    def wait(store: agl.LightningStore, train_dataset: list[int]) -> int:
        import asyncio

        async def run() -> int:
            rollout = await store.enqueue_rollout(train_dataset[0])
            return len(await store.wait_for_rollouts([rollout.rollout_id]))

        return asyncio.run(run())

    assert train(half, [1], algorithm=wait).returned == 1


def test_progress_and_result_are_one_line_each():
    progress = RunProgress(
        seconds=72,
        queued=86,
        running=4,
        succeeded=409,
        failed=3,
        mean_reward=0.541,
        rate=6.2,
    )

    assert (
        progress_line(progress)
        == "[1:12] 412 done, 3 failed, 4 running, 86 queued, mean reward 0.541, 6.2/s, 0:14 left"
    )
    result = RunResult(name="r", folder=Path("/runs/r"), counts={"succeeded": 2, "failed": 1}, seconds=3.21)
    assert result_line(result) == "Run r finished after 3.2 s: 1 failed, 2 succeeded. Saved to /runs/r"
