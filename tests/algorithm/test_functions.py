"""`@algo`, the algorithms' base, and the journal."""

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
def everything(store: Any, journal: Any, train_dataset: Any, other: int = 3) -> list[Any]:
    """It returns what it is given."""
    return [store, journal, train_dataset, other]


def test_a_function_is_given_what_its_parameters_name():
    everything.bind(RunContext(store="the store", journal="the journal"))  # pyright: ignore

    assert everything.run(["task"]) == ["the store", "the journal", ["task"], 3]
    assert everything("a", "b", "c", other=4) == ["a", "b", "c", 4]
    assert (everything.__name__, everything.__doc__) == ("everything", "It returns what it is given.")


def test_a_parameter_that_nobody_gives_is_an_error_that_names_it():
    with pytest.raises(TypeError, match="algorithm lost asks for 'prompts', which nobody gives it"):

        @agl.algo
        def lost(store: Any, prompts: Any) -> None: ...


def test_an_algorithm_outside_a_trainer_says_what_it_lacks():
    with pytest.raises(RuntimeError, match=r"has no store yet: it is given one by Trainer\.fit"):
        agl.Algorithm().get_store()


def test_a_class_is_no_function():
    with pytest.raises(TypeError, match=r"derive a class from agl\.Algorithm"):
        agl.algo(dict)


async def test_a_step_is_done_once_also_in_a_later_sitting():
    done: list[str] = []

    async def work() -> dict[str, Any]:
        done.append("work")
        await asyncio.sleep(0)
        return {"answer": (1, 2)}

    async with agl.InMemoryLightningStore() as store:
        first = await Journal.open(store, "run")
        both = await asyncio.gather(first.once("a", work), first.once("a", work))
        second = await Journal.open(store, "run")
        again = await second.once("a", work)

        assert [*both, again] == [{"answer": [1, 2]}] * 3
        assert done == ["work"]
        assert (first.is_resumed, second.is_resumed) == (True, True)
        assert [each.status for each in await journal_sessions(store)] == ["failed", "running"]
        await second.end("succeeded")
        assert [each.status for each in await journal_sessions(store)] == ["failed", "succeeded"]


async def test_a_step_that_raises_was_not_done():
    async def fail() -> None:
        raise OSError("no network")

    async def succeed() -> str:
        return "well"

    async with agl.InMemoryLightningStore() as store:
        journal = await Journal.open(store, "run")
        with pytest.raises(OSError, match="no network"):
            await journal.once("a", fail)

        assert await journal.once("a", succeed) == "well"


def test_an_algorithm_can_be_pickled_where_its_function_can():
    assert pickle.loads(pickle.dumps(agl.Baseline(2)))._n_epochs == 2
