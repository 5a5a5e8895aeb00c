"""The trainer in this process: components in every form, results, callbacks, dev."""

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
from agentlightning.trainer.callbacks import Progress
from agentlightning.trainer.components import build
from agentlightning.trainer.display import ending, failed, line


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def half(task: Any) -> float:
    return 0.5


def odd_ones_fail(task: int) -> float | None:
    if task % 2:
        raise ValueError("odd")
    return task / 10 if task else None


def train(agent: Any, tasks: list[Any], **options: Any) -> RunResult:
    trainer = agl.Trainer(**{"strategy": "shm", "tracer": agl.OtelTracer, "progress": False} | options)
    return trainer.fit(agent, tasks)


class Named(agl.Baseline):
    """An algorithm that is found by import path."""


def make_algorithm() -> agl.Algorithm:
    return agl.Baseline()


@agl.algo
async def decorated(store: agl.LightningStore) -> int:
    return 7


NOTICED: list[bool] = []


class NoticingHook(agl.Hook):
    """Notes that it was called."""

    async def on_rollout_end(self, **about: Any) -> None:
        NOTICED.append(True)


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
def test_an_algorithm_comes_in_any_form(algorithm: Any):
    assert isinstance(agl.Trainer(algorithm=algorithm).algorithm, agl.Baseline)


def test_a_function_that_asks_for_something_is_an_algorithm_itself():
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
def test_so_does_every_other_component(component: dict[str, Any]):
    NOTICED.clear()

    result = train(half, [1], hooks=NoticingHook, **component)

    assert result.counts == {"succeeded": 1}
    assert NOTICED == [True]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("no_such_module:Name", "strategy='no_such_module:Name' means nothing: there is no module 'no_such_module'"),
        ("agentlightning:Nothing", "strategy='agentlightning:Nothing' means nothing: there is no 'Nothing' in"),
        ("nonsense", "strategy='nonsense' means nothing: give 'cs', 'shm', an import path"),
        ({"n_runners": 2}, "strategy is given as a dict, so it needs a 'type'"),
        (7, "strategy is given as an instance, a class, a factory, an import path or a dict, not int"),
        (agl.Baseline, "strategy is a ExecutionStrategy, and .* gave a Baseline"),
    ],
)
def test_what_is_no_component_is_refused_with_a_reason(given: Any, complaint: str):
    with pytest.raises((TypeError, ValueError), match=complaint):
        build(given, ExecutionStrategy, what="strategy", names={"cs": ExecutionStrategy, "shm": ExecutionStrategy})


def test_the_result_counts_failures_and_rewards_apart():
    result = train(odd_ones_fail, [0, 1, 2, 3, 4], initial_resources={"prompt": "Do {it}"})

    assert result.counts == {"succeeded": 3, "failed": 2}
    [tried] = result.history
    assert (tried.resources_id, tried.rollouts, tried.failed, tried.rewarded) == ("initial", 5, 2, 2)
    assert tried.mean_reward == pytest.approx(0.3)
    assert tried.standard_error == pytest.approx(0.1)
    assert result.best_resources == {"prompt": agl.PromptTemplate(template="Do {it}")}
    assert result.rewards == {"initial": pytest.approx(0.3)}
    kept = json.loads((result.folder / "result.json").read_text())
    assert kept["counts"] == result.counts


def test_callbacks_hear_of_everything_and_may_fail():
    heard: list[Any] = []

    class Broken(Callback):
        def on_start(self, folder: Path) -> None:
            raise OSError("no disk")

    class Listener(Callback):
        def on_start(self, folder: Path) -> None:
            heard.append(folder.name)

        def on_progress(self, progress: Progress) -> None:
            heard.append(progress.done)

        def on_metrics(self, values: Any, step: int | None) -> None:
            heard.append((dict(values), step))

        def on_end(self, result: RunResult) -> None:
            heard.append(result.status)

    result = train(half, [1, 2], callbacks=[Broken(), Listener()])

    assert heard[0] == result.name
    assert heard[-2:] == [2, "finished"]
    assert ({"train/mean_reward": 0.5}, 1) in heard
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


def test_dev_is_for_fast_algorithms():
    class Slow(agl.Algorithm):
        pass

    with pytest.raises(TypeError, match="Slow is not a FastAlgorithm"):
        agl.Trainer(algorithm=Slow()).dev(half, [1])


def test_runners_have_many_rollouts_at_once_with_max_concurrency():
    together = threading.Barrier(4, timeout=30)

    def agent(task: int) -> float:
        together.wait()
        return 1.0

    assert train(agent, [1, 2, 3, 4], max_concurrency=4).counts == {"succeeded": 4}


def test_a_store_that_was_given_stays_open():
    store = agl.InMemoryLightningStore()

    train(half, [1], store=store)
    train(half, [1], store=store)

    import asyncio

    assert asyncio.run(store.statistics())["rollouts"]["succeeded"] == 4  # with an algorithm's sitting for each run
    asyncio.run(store.close())


@pytest.mark.parametrize("strategy", ["cs", "shm"])
def test_rollouts_that_wait_for_runners_that_are_done_end_the_run(strategy: str):
    with pytest.raises(ValueError, match="max_rollouts"):
        train(half, [1, 2, 3], strategy=strategy, max_rollouts=2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"n_runners": 0}, "n_runners is at least 1, not 0"),
        ({"max_concurrency": 0}, "max_concurrency is at least 1, not 0"),
        ({"initial_resources": agl.PromptTemplate(template="x")}, "initial_resources is a dict of resources by name"),
        ({"initial_resources": {"p": {"a": 1}}}, "needs a 'resource_type'"),
        ({"hooks": [3]}, "hooks is given as an instance"),
    ],
)
def test_a_mistake_in_the_settings_is_named_before_anything_runs(options: dict[str, Any], complaint: str):
    with pytest.raises((TypeError, ValueError), match=complaint):
        agl.Trainer(**options)


@pytest.mark.parametrize("tasks", [(n for n in range(3)), {"a": 1}, 7])
def test_tasks_that_cannot_be_counted_are_refused(tasks: Any):
    with pytest.raises(TypeError, match="train_dataset is a list, or anything else with a length"):
        train(half, tasks)


def test_failures_are_told_by_their_reasons():
    result = train(odd_ones_fail, [0, 1, 2, 3])

    assert result.failures == {"ValueError: odd": 2}
    assert failed(result) == ["  2 failed: ValueError: odd"]


def test_each_run_has_a_log_of_its_own():
    first, second = train(half, [1]), train(half, [1, 2])

    assert (first.folder / "log.txt").read_text().count("Completed in") == 1
    assert (second.folder / "log.txt").read_text().count("Completed in") == 2


def test_logging_that_was_set_up_says_no_more_during_a_run(capsys: pytest.CaptureFixture[str]):
    logger = agl.setup_logging("ERROR")
    try:
        result = train(odd_ones_fail, [0, 1])
        logger.warning("not this")
        logger.error("but this")
    finally:
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)

    said = capsys.readouterr().err
    assert "Completed in" not in said
    assert "Failed in" in said
    assert "not this" not in said
    assert "but this" in said
    assert "Completed in" in (result.folder / "log.txt").read_text()


def test_a_sync_algorithm_may_block():
    @agl.algo
    def wait(store: agl.LightningStore, train_dataset: list[int]) -> int:
        import asyncio

        async def run() -> int:
            rollout = await store.enqueue_rollout(train_dataset[0])
            return len(await store.wait_for_rollouts([rollout.rollout_id]))

        return asyncio.run(run())

    assert train(half, [1], algorithm=wait).returned == 1


def test_progress_is_one_line():
    progress = Progress(
        seconds=72,
        queued=86,
        running=4,
        succeeded=409,
        failed=3,
        mean_reward=0.541,
        rate=6.2,
    )

    assert line(progress) == "[1:12] 412 done, 3 failed, 4 running, 86 queued, mean reward 0.541, 6.2/s, 0:14 left"
    result = RunResult(name="r", folder=Path("/runs/r"), counts={"succeeded": 2, "failed": 1}, seconds=3.21)
    assert ending(result) == "Run r finished after 3.2 s: 1 failed, 2 succeeded. It lies in /runs/r"
