"""`agl run` and `agl reward`: run any program as an agent, once for each task, and report a reward from the program."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import EXISTING_FILE, POSITIVE, echo, errors_as_messages, format_reward, model_options, store_options
from .proxy import model_list

if TYPE_CHECKING:
    from ..store import LightningStoreClient
    from ..types import Rollout


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--task", "texts", multiple=True, metavar="TEXT", help="Task as text. Repeatable.")
@click.option("--tasks", type=EXISTING_FILE, help="JSONL file with one task per line.")
@model_options
@click.option("--grader", metavar="FILE.py:FUNCTION", help="Function (task, output) that returns the reward.")
@click.option(
    "--env",
    "environment",
    metavar="NAME",
    multiple=True,
    help="Environment variable to pass on to the program. Repeatable.",
)
@click.option(
    "--timeout", type=float, help="Time limit per task in seconds, after which the program and its children are killed."
)
@click.option("--jobs", type=POSITIVE, default=1, help="Number of tasks to run concurrently.")
@store_options
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def run(
    texts: tuple[str, ...],
    tasks: Path | None,
    models: tuple[str, ...],
    keys: tuple[str, ...],
    grader: str | None,
    environment: tuple[str, ...],
    timeout: float | None,
    jobs: int,
    store_url: str | None,
    db: str,
    program: tuple[str, ...],
) -> None:
    """Run COMMAND as an agent, once for each task, and record its calls and rewards in a store.

    The program gets its task from AGL_TASK and AGL_TASK_FILE, and the model from OPENAI_BASE_URL or ANTHROPIC_BASE_URL.
    It reports its reward with `agl reward 0.9` or as the last line of its output. Exits with status 1 if any task
    failed.
    """
    from ..execution.base import run_until_complete
    from ..litagent import CommandAgent
    from ..logs import setup_logging
    from .train import load

    setup_logging("warning")
    agent = CommandAgent(
        fixed_command(program), grader=load(grader) if grader else None, environment=environment, timeout=timeout
    )
    with errors_as_messages():
        upstreams = model_list(models, keys, ()) if models else []
        inputs = _read_tasks(texts, tasks)
        rollouts = run_until_complete(lambda: _run_all(agent, inputs, upstreams, jobs, store_url, db))
    if any(rollout.status != "succeeded" for rollout in rollouts):
        raise SystemExit(1)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("reward", type=float)
def reward(reward: float) -> None:
    """Report REWARD from a program that was started by `agl run` or by a command agent.

    If a program reports several rewards, the last value wins.
    """
    file = os.environ.get("AGL_REWARD_FILE")
    if file is None:
        raise click.ClickException("AGL_REWARD_FILE is not set: use agl reward in a program started by agl run")
    if not math.isfinite(reward):
        raise click.ClickException(f"a reward must be a finite number, not {reward}")
    with errors_as_messages():
        Path(file).write_text(json.dumps(reward))


def fixed_command(program: tuple[str, ...]) -> Any:
    """Return a function for `CommandAgent` that returns the same command for every task."""

    def command(task: Any) -> list[str]:
        return list(program)

    return command


def _read_tasks(texts: tuple[str, ...], file: Path | None) -> list[Any]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file else []
        return [*texts, *(json.loads(line) for line in lines if line.strip())] or [""]
    except ValueError as error:
        raise click.ClickException(f"{file} is not valid JSONL: {error}") from None


async def _run_all(
    agent: Any, tasks: list[Any], upstreams: list[Any], jobs: int, store_url: str | None, db: str
) -> list[Rollout]:
    from ..runner import LitAgentRunner
    from ..tracer import OtelTracer

    slots = asyncio.Semaphore(jobs)
    async with _open_store(store_url, db) as store, _serve_models(upstreams, store):
        runner = LitAgentRunner[Any](OtelTracer())
        with runner.run_context(agent=agent, store=store):

            async def run(task: Any) -> Rollout:
                async with slots:
                    rollout = await runner.step(task)
                    echo(f"{rollout.rollout_id} {rollout.status}, reward {format_reward(rollout.reward)}")
                    return rollout

            return list(await asyncio.gather(*(run(task) for task in tasks)))


@asynccontextmanager
async def _open_store(url: str | None, db: str) -> AsyncGenerator[LightningStoreClient]:
    """Yield a client for the store at `url`. If `url` is None, serve `db` during the block and connect to it."""
    from ..attempt_tokens import generate_secret
    from ..store import LightningStoreClient, LightningStoreServer, open_store

    async with AsyncExitStack() as stack:
        token = None
        if url is None:
            token = generate_secret()
            server = LightningStoreServer(open_store(db), port=0, token=token)
            stack.push_async_callback(server.close)
            await server.start()
            url = server.endpoint
        client = LightningStoreClient(url, token=token)
        stack.push_async_callback(client.close)
        yield client


@asynccontextmanager
async def _serve_models(upstreams: list[Any], store: LightningStoreClient) -> AsyncGenerator[None]:
    """Run a proxy for the models during the block, and store the first model as the resource `llm`.

    Each attempt gets its own API key, from which the proxy can tell which attempt makes a call. If there are no models,
    the function does nothing.
    """
    from ..attempt_tokens import generate_secret
    from ..llm_proxy import LLMProxy

    if not upstreams:
        yield
        return
    async with LLMProxy(None, upstreams, store, token=generate_secret()) as proxy:
        await store.add_resources({"llm": proxy.as_resource(model=upstreams[0]["name"])})
        yield
