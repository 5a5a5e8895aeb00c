"""LLMProxy: the gateway's life, and what an algorithm does with it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
from starlette.types import ASGIApp

from ..attempt_tokens import key_for_attempt
from ..errors import AgentLightningError, InvalidInput, StoreUnavailable
from ..http.server import Uvicorn
from ..store.contract import LightningStore
from ..types import LLM, ProxyLLM
from .app import ProxyApp
from .auth import Door
from .recording import Recorder
from .routing import Routing
from .upstreams import ModelList, Upstream, upstreams

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 8
"""How long calls under way may take when the proxy is stopped."""
FLUSH_SECONDS = 5.0

T = TypeVar("T")


class LLMProxy:
    """A gateway between agents and model servers, in a thread of its own.

    Agents ask it as they would ask OpenAI or Anthropic; calls to an attempt's address are stored as that attempt's
    spans, with token ids where the server can give them, before the agent has the end of its answer.

    `port` None is any free one. `model_list` names the servers (`Upstream`s, dicts of their fields, or URLs by name).
    With a `token`, callers need it, or the token made of it for their attempt; beyond this machine it is required.
    """

    def __init__(
        self,
        port: int | None = None,
        model_list: ModelList | None = None,
        store: LightningStore | None = None,
        *,
        host: str = "127.0.0.1",
        token: str | None = None,
    ) -> None:
        self.store = store
        """Where calls are recorded; None records nothing. May be set while the proxy runs."""
        self.host = host
        self.port = port or 0
        self._door = Door(host, token)
        self._upstreams = upstreams(model_list)
        self._serving: _Serving | None = None

    # Its life

    async def start(self) -> None:
        """Serve; returns when calls are answered. Does nothing while it is running already."""
        if self._serving is None:
            listening = self._listen()
            serving = _Serving(self._app)
            serving.start(listening)
            await asyncio.to_thread(serving.answering.wait)
            self._serving = serving

    async def stop(self) -> None:
        """Let the calls under way come to their end, store what is on record, and stop serving."""
        serving, self._serving = self._serving, None
        if serving is not None:
            await asyncio.to_thread(serving.stop)

    async def restart(self, model_list: ModelList | None = None) -> None:
        """Stop and start again at the same port, with `model_list` where it is given."""
        await self.stop()
        if model_list is not None:
            self._upstreams = upstreams(model_list)
        await self.start()

    def is_running(self) -> bool:
        """Whether it answers calls."""
        return self._serving is not None and self._serving.alive

    def run_forever(
        self, announce: Callable[[], None] | None = None, reload: Callable[[], ModelList] | None = None
    ) -> None:
        """Serve from this thread until SIGINT or SIGTERM, then drain; `announce` is called when the port is known.

        On SIGHUP `reload` is asked for the upstreams to go on with; where it raises, those there are stay.
        """
        listening = self._listen()
        if announce is not None:
            announce()
        serving = _Serving(self._app)
        if reload is not None and hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda number, frame: self._reload(serving, reload))
        serving.run(listening)

    def _reload(self, serving: _Serving, reload: Callable[[], ModelList]) -> None:
        """Called within the server's thread, in the middle of something."""
        try:
            self._upstreams = upstreams(reload())
        except (AgentLightningError, OSError) as error:
            logger.error("The models stay as they were: %s", error)
        else:
            serving.call_soon(serving.routing.exchange, self._upstreams)
            logger.warning("The models are now: %s", ", ".join(one.name for one in self._upstreams))

    async def __aenter__(self) -> LLMProxy:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Its models

    @property
    def model_list(self) -> list[Upstream]:
        """The upstreams it has now."""
        return list(self._upstreams)

    def update_model_list(self, model_list: ModelList) -> None:
        """Put these in place of all upstreams. Calls under way end as they began; waiting ones go to the new ones."""
        self._upstreams = upstreams(model_list)
        if self._serving is not None:
            self._serving.call(self._serving.routing.exchange, self._upstreams)

    async def pause(self, *names: str, drain: bool = True) -> None:
        """Hold back new calls to these models (all, when none is named); they wait. Return when none is under way."""
        if self._serving is not None:
            routing, which = self._serving.routing, names or None
            await self._serving.ask(routing.pause(which))
            if drain:
                await self._serving.ask(routing.drained(which))

    async def resume(self, *names: str, policy_version: str | None = None) -> None:
        """Let calls go on; from now on stamped with `policy_version`, where it is given."""
        if policy_version is not None:
            self.set_policy_version(policy_version, *names)
        if self._serving is not None:
            await self._serving.ask(self._serving.routing.resume(names or None))

    @asynccontextmanager
    async def paused(self, *names: str, policy_version: str | None = None) -> AsyncGenerator[None]:
        """No call is under way within the block, the place to change weights; afterwards all go on."""
        await self.pause(*names)
        try:
            yield
        finally:
            await self.resume(*names, policy_version=policy_version)

    def set_policy_version(self, policy_version: str, *names: str) -> None:
        """Stamp the calls to these models (all, when none is named) that begin from now on."""
        self.update_model_list(
            [
                one.model_copy(update={"policy_version": policy_version}) if not names or one.name in names else one
                for one in self._upstreams
            ]
        )

    # Its addresses

    @property
    def endpoint(self) -> str:
        """What an OpenAI client takes as `base_url`; calls to it belong to nobody and are not recorded."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    def as_resource(
        self,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        model: str | None = None,
        sampling_parameters: dict[str, Any] | None = None,
    ) -> LLM:
        """The proxy as a resource: a `ProxyLLM`, or with both ids the plain `LLM` of that attempt.

        `model` is the only one there is when it is not given.
        """
        proxied = ProxyLLM(
            endpoint=self.endpoint,
            model=model or self._only_model(),
            api_key=self._door.secret,
            sampling_parameters=sampling_parameters or {},
        )
        if rollout_id is None and attempt_id is None:
            return proxied
        return LLM(
            endpoint=proxied.get_base_url(rollout_id, attempt_id),
            model=proxied.model,
            api_key=key_for_attempt(proxied.api_key, rollout_id or "", attempt_id or ""),
            sampling_parameters=proxied.sampling_parameters,
        )

    def attempt_token(self, rollout_id: str, attempt_id: str) -> str:
        """The API key with which an agent speaks for this attempt and no other."""
        return self._door.token_for(rollout_id, attempt_id)

    def _only_model(self) -> str:
        names = list(dict.fromkeys(one.name for one in self._upstreams))
        if len(names) != 1:
            raise InvalidInput(f"say which model: this proxy has {', '.join(names) or 'none'}", field="model")
        return names[0]

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listening = socket.create_server((self.host, self.port), family=family, backlog=2048)
        except OSError as error:
            raise StoreUnavailable(
                f"the proxy cannot listen on {self.host}:{self.port}: {error.strerror}; choose another port"
            ) from None
        self.port = listening.getsockname()[1]
        return listening

    def _app(self, session: aiohttp.ClientSession) -> tuple[ASGIApp, Routing, Recorder]:
        routing, recorder = Routing(self._upstreams, session), Recorder(lambda: self.store)
        return ProxyApp(routing, recorder, self._door), routing, recorder


class _Serving:
    """One run of the server, with all that belongs to its event loop."""

    routing: Routing

    def __init__(self, app: Callable[[aiohttp.ClientSession], tuple[ASGIApp, Routing, Recorder]]) -> None:
        self._make_app = app
        self.answering = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Uvicorn | None = None
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, listening: socket.socket) -> None:
        self._thread = threading.Thread(target=self.run, args=(listening,), name="agl-proxy", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.end()
        self._thread.join()

    def run(self, listening: socket.socket) -> None:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=True) as session:
            app, self.routing, recorder = self._make_app(session)
            self._server = Uvicorn(app, drain_seconds=DRAIN_SECONDS, on_answering=self.answering.set)
            await self._server.serve([listening])
            await recorder.flush(FLUSH_SECONDS)

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Have a function called in the server's event loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function, *args)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the server's event loop, from another thread."""

        async def there() -> T:
            return function(*args)

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(there(), self._loop).result()

    async def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """Await something in the server's event loop, from another one."""
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(question, self._loop))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # on Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
