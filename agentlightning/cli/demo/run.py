"""One run of the demo: start the parts, try the prompts, show what came of it, stop the parts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, TypeVar

from ...errors import AgentLightningError, MissingExtra
from ...local_model import MODEL_NAME, LocalModel, serve_local_model
from ...processes import leashed
from .screen import Screen
from .search import Tried, try_prompts
from .task import PROMPTS, TASKS

T = TypeVar("T")


class DemoError(AgentLightningError, RuntimeError):
    """The demo could not be carried out."""


def run_demo(folder: str | None, base_url: str | None) -> None:
    """Run the demo, with its files in `folder`, or in a new temporary one."""
    _require_installed(local_model=base_url is None)
    place = Path(folder or tempfile.mkdtemp(prefix="agl-demo-")).absolute()
    place.mkdir(parents=True, exist_ok=True)
    model = f"the model at {base_url}" if base_url else f"a local model, {MODEL_NAME}"
    screen = Screen(place, model=model, prompts=len(PROMPTS), tasks=len(TASKS))
    with _Parts(place) as parts, screen.until_stopped():
        with screen.starting():
            store_url = parts.start_store()
            parts.start_runner(store_url, base_url or parts.start_model())
        with screen.trying():
            tried = _run(lambda: parts.unless_one_ends(_search(store_url, screen)))
    screen.show_results(tried)


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """As `asyncio.run`; a Ctrl-C that comes while the event loop is being made waits until that can handle it."""
    if sys.platform == "win32":
        return asyncio.run(work())

    async def begin() -> T:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return await work()

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return asyncio.run(begin())


async def _search(store_url: str, screen: Screen) -> list[Tried]:
    from ...store import LightningStoreClient

    async with LightningStoreClient(store_url) as store:
        await store.statistics()  # which waits until the store answers
        screen.may_be_watched(store_url)
        return await try_prompts(store, PROMPTS, TASKS, screen)


class _Parts:
    """The processes of a demo; all of them end with the context, and with this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def start_store(self) -> str:
        """Start a store over the folder's database; return its URL."""
        port = str(_free_port())
        self._start("store", "agentlightning.cli", "store", "--port", port, "--db", str(self._folder / "agl.db"))
        return f"http://127.0.0.1:{port}"

    def start_model(self) -> str:
        """Start the local model; return its base URL once it answers."""
        return self._running.enter_context(serve_local_model(LocalModel(context=512), log=self._log("model")))

    def start_runner(self, store_url: str, base_url: str) -> None:
        """Start a runner of the demo's agent."""
        environment = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY", "none")}
        self._start("runner", "agentlightning.cli.demo.task", store_url, environment=environment)

    async def unless_one_ends(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises DemoError as soon as one of the processes is no more."""
        working, ended = asyncio.ensure_future(work), asyncio.get_running_loop().create_future()
        for name, process in self._processes.items():
            threading.Thread(target=_tell_of_end, args=(name, process, ended), daemon=True).start()
        await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        raise DemoError(self._last_words(ended.result()))

    def _start(self, name: str, module: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        log = self._log(name)
        process = leashed(module, *arguments, stdout=log, stderr=subprocess.STDOUT, environment=environment)
        self._processes[name] = self._running.enter_context(process)

    def _log(self, name: str) -> IO[str]:
        return self._running.enter_context((self._folder / f"{name}.log").open("a", encoding="utf-8"))

    def _last_words(self, name: str) -> str:
        log = self._folder / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        return "\n".join([f"the {name}'s process has ended, though nobody stopped it; the end of {log}:", *lines])


def _tell_of_end(name: str, process: subprocess.Popen[str], ended: asyncio.Future[str]) -> None:
    process.wait()
    with contextlib.suppress(RuntimeError):  # the event loop is closed: the demo is over, and nobody asks any more
        ended.get_loop().call_soon_threadsafe(lambda: ended.done() or ended.set_result(name))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _require_installed(*, local_model: bool) -> None:
    if find_spec("openai") is None:
        raise MissingExtra("openai", wanted_for="the demo's agent")
    if local_model:
        LocalModel().located()
