"""`agl run`: any program as an agent, one run of it for each task."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .proxy import model_list
from .store_options import store_options

if TYPE_CHECKING:
    from ..store import LightningStoreClient
    from ..types import Rollout


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--task", "texts", multiple=True, metavar="TEXT", help="A task; may be given several times.")
@click.option(
    "--tasks", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A file of tasks, JSON by the line."
)
@click.option("--model", "models", metavar="NAME=URL", multiple=True, help="A model, reached through a proxy.")
@click.option("--key", "keys", metavar="NAME=VARIABLE", multiple=True, help="Its API key is in this variable.")
@click.option("--grader", metavar="FILE.py:FUNCTION", help="Rewards: called with the task and the output.")
@click.option("--env", "environment", metavar="NAME", multiple=True, help="A variable the program gets besides ours.")
@click.option("--timeout", type=float, help="Seconds until a run is killed, with all it has started.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time.")
@store_options
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def command(
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
    """Run COMMAND as an agent, once for each task, and keep what it did in a store.

    The program finds its task in AGL_TASK and AGL_TASK_FILE and the model in OPENAI_BASE_URL or ANTHROPIC_BASE_URL. It
    says its reward with `agl reward 0.9`, or as the last line of its output. Ends with 1 when a run failed.
    """
    from ..errors import AgentLightningError
    from ..litagent import CommandAgent
    from ..logs import setup_logging
    from ..runner.shutdown import SIGTERM_EXIT

    setup_logging("warning")
    agent = CommandAgent(
        always(program), grader=_grader(grader) if grader else None, environment=environment, timeout=timeout
    )
    try:
        upstreams = model_list(models, keys, ()) if models else []
        done = asyncio.run(_run_all(agent, _tasks(texts, tasks), upstreams, jobs, store_url, db))
    except asyncio.CancelledError:
        raise SystemExit(SIGTERM_EXIT) from None
    except (AgentLightningError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if any(rollout.status != "succeeded" for rollout in done):
        raise SystemExit(1)


def always(program: tuple[str, ...]) -> Any:
    """A function that gives this command for every task."""

    def command(task: Any) -> list[str]:
        return list(program)

    return command


def _tasks(texts: tuple[str, ...], file: Path | None) -> list[Any]:
    lines = file.read_text().splitlines() if file else []
    try:
        return [*texts, *(json.loads(line) for line in lines if line.strip())] or [""]
    except ValueError as error:
        raise click.ClickException(f"{file} is not JSON by the line: {error}") from None


def _grader(where: str) -> Any:
    from .train import load

    return load(where)


async def _run_all(
    agent: Any, tasks: list[Any], upstreams: list[Any], jobs: int, store_url: str | None, db: str
) -> list[Rollout]:
    from ..runner import LitAgentRunner
    from ..tracer import OtelTracer

    _end_on_sigterm()
    slots = asyncio.Semaphore(jobs)
    async with _store(store_url, db) as store, _model(upstreams, store):
        runner = LitAgentRunner[Any](OtelTracer())
        with runner.run_context(agent=agent, store=store):

            async def one(task: Any) -> Rollout:
                async with slots:
                    rollout = await runner.step(task)
                    await _tell(store, rollout)
                    return rollout

            return list(await asyncio.gather(*(one(task) for task in tasks)))


def _end_on_sigterm() -> None:
    """End as with Ctrl-C: the programs first."""
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _tell(store: LightningStoreClient, rollout: Rollout) -> None:
    from ..adapter import find_final_reward

    reward = find_final_reward(list(await store.query_spans(rollout.rollout_id)))
    click.echo(f"{rollout.rollout_id} {rollout.status}, reward {'none' if reward is None else format(reward, 'g')}")


@asynccontextmanager
async def _store(url: str | None, db: str) -> AsyncGenerator[LightningStoreClient]:
    from ..attempt_tokens import new_secret
    from ..store import LightningStoreClient, LightningStoreServer, open_store

    token = None
    async with AsyncExitStack() as life:
        if url is None:
            token = new_secret()
            server = LightningStoreServer(open_store(db), port=0, token=token)
            life.push_async_callback(server.close)
            await server.start()
            url = server.endpoint
        store = LightningStoreClient(url, token=token)
        life.push_async_callback(store.close)
        yield store


@asynccontextmanager
async def _model(upstreams: list[Any], store: LightningStoreClient) -> AsyncGenerator[None]:
    """Put the first model among the resources, behind a proxy that tells the attempts apart by their keys."""
    from ..attempt_tokens import new_secret
    from ..llm_proxy import LLMProxy

    if not upstreams:
        yield
        return
    async with LLMProxy(None, upstreams, store, token=new_secret()) as proxy:
        await store.add_resources({"llm": proxy.as_resource(model=upstreams[0]["name"])})
        yield
