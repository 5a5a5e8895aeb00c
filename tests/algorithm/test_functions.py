"""Base class of algorithms, `@algo`, and the journal."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm import Journal
from agentlightning.algorithm.base import RunContext
from agentlightning.algorithm.journal import journal_sessions


@agl.algo
def return_arguments(store: Any, journal: Any, train_dataset: Any, other: int = 3) -> list[Any]:
    """Return the arguments."""
    return [store, journal, train_dataset, other]


def test_algo_injects_arguments_by_parameter_name():
    return_arguments.bind(RunContext(store="the store", journal="the journal"))  # pyright: ignore

    assert return_arguments.run(["task"]) == ["the store", "the journal", ["task"], 3]
    assert return_arguments("a", "b", "c", other=4) == ["a", "b", "c", 4]
    assert (return_arguments.__name__, return_arguments.__doc__) == ("return_arguments", "Return the arguments.")


def test_algo_rejects_unknown_parameter():
    with pytest.raises(TypeError, match="algorithm wrong has an unknown parameter 'prompts': use store, adapter,"):

        @agl.algo
        def wrong(store: Any, prompts: Any) -> None: ...


def test_algo_rejects_class():
    with pytest.raises(TypeError, match=r"derive a class from agl\.Algorithm"):
        agl.algo(dict)


def test_algorithm_outside_trainer_reports_missing_store():
    with pytest.raises(RuntimeError, match=r"has no store yet: run it with Trainer\.fit"):
        agl.Algorithm().get_store()


def test_algorithm_can_be_pickled():
    assert pickle.loads(pickle.dumps(agl.Baseline(2)))._n_epochs == 2


async def test_journal_runs_step_once_across_sessions():
    done: list[str] = []

    async def work() -> dict[str, Any]:
        done.append("work")
        await asyncio.sleep(0)
        return {"answer": (1, 2)}

    async with agl.InMemoryLightningStore() as store:
        first = await Journal.open(store, "run")
        concurrent = await asyncio.gather(first.once("a", work), first.once("a", work))
        second = await Journal.open(store, "run")
        resumed = await second.once("a", work)

        assert [*concurrent, resumed] == [{"answer": [1, 2]}] * 3
        assert done == ["work"]
        assert (first.is_resumed, second.is_resumed) == (True, True)
        assert [each.status for each in await journal_sessions(store)] == ["failed", "running"]
        await second.end("succeeded")
        assert [each.status for each in await journal_sessions(store)] == ["failed", "succeeded"]


async def test_journal_runs_failed_step_again():
    async def fail() -> None:
        raise OSError("no network")

    async def succeed() -> str:
        return "result"

    async with agl.InMemoryLightningStore() as store:
        journal = await Journal.open(store, "run")
        with pytest.raises(OSError, match="no network"):
            await journal.once("a", fail)

        assert await journal.once("a", succeed) == "result"
