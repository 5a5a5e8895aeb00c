"""LLMProxy, the class that starts and stops the proxy and manages its models and URLs."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp

from ..attempt_tokens import api_key_for_attempt
from ..concurrency import event_loop_thread, new_event_loop
from ..errors import AgentLightningError, InvalidInput
from ..http.limits import Limits
from ..http.server import GracefulServer, base_url, listen, raise_descriptor_limit
from ..store.contract import LightningStore
from ..types import LLM, ProxyLLM
from .app import ProxyApp
from .auth import ProxyAuthenticator, TokenExpiry
from .recording import CallRecorder
from .routing import Routing
from .upstreams import ModelList, Upstream, parse_model_list

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT = 8
"""Maximum time, in seconds, to wait for calls in flight when the proxy stops."""
FLUSH_TIMEOUT = 5.0
"""Maximum time, in seconds, to wait for queued spans to be stored after the calls in flight have ended."""
LIMITS = Limits(body=64 * 1024 * 1024, bodies=1024 * 1024 * 1024, requests=10_000)
"""The default limits. Request bodies may be larger than in a store server, because conversations may contain images."""


class LLMProxy:
    """HTTP proxy between agents and model servers. `start` runs it in a separate thread.

    Agents call the proxy in the same way as the OpenAI or Anthropic API. A call to an attempt's URL is recorded as a
    span of that attempt, including token ids if the server can return them. The span is stored before the agent
    receives the end of the response.

    If `port` is None, a free port is selected. `model_list` specifies the model servers, called upstreams: either a
    list of `Upstream` objects or of dicts with the same fields, or a dict that maps model names to URLs. If `token` is
    set, clients must send this token, or a key derived from it, as their API key. A proxy that is reachable from other
    machines requires a token. `limits` sets the limits for requests and for the model servers' responses (default:
    `LIMITS`).
    """

    def __init__(
        self,
        port: int | None = None,
        model_list: ModelList | None = None,
        store: LightningStore | None = None,
        *,
        host: str = "127.0.0.1",
        token: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.store = store
        """The store in which calls are recorded. If None, calls are not recorded.

        The store can be set while the proxy is running.
        """
        self.host = host
        self.port = port or 0
        self._authenticator = ProxyAuthenticator(host, token)
        self._limits = limits or LIMITS
        self._upstreams = parse_model_list(model_list)
        self._server: _ServerThread | None = None

    # Start and stop

    async def start(self) -> None:
        """Start the server and return once it accepts calls. Does nothing if the proxy is already running."""
        if self._server is None:
            self._server = await asyncio.to_thread(_ServerThread, partial(self._serve, self._listen()))

    async def stop(self) -> None:
        """Stop accepting calls, wait for the calls in flight, and store their spans.

        Calls that do not end within `DRAIN_TIMEOUT` are cancelled. After that, spans that cannot be stored within
        `FLUSH_TIMEOUT` are dropped.
        """
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.stop)

    async def restart(self, model_list: ModelList | None = None) -> None:
        """Stop the proxy and start it again on the same port. If `model_list` is given, it replaces the upstreams."""
        await self.stop()
        if model_list is not None:
            self._upstreams = parse_model_list(model_list)
        await self.start()

    def is_running(self) -> bool:
        """Return True if the server was started with `start` and is still running."""
        return self._server is not None and not self._server.finished.done()

    def run_forever(
        self, announce: Callable[[], None] | None = None, reload: Callable[[], ModelList] | None = None
    ) -> None:
        """Serve in this thread until SIGINT or SIGTERM, then wait for the calls in flight and stop.

        Calls `announce` once the proxy accepts calls. On SIGHUP, calls `reload` to get the new upstreams. If `reload`
        fails, the upstreams remain unchanged.
        """

        def on_started(_: GracefulServer, routing: Routing) -> None:
            if reload is not None and hasattr(signal, "SIGHUP"):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload, routing, reload)
            if announce is not None:
                announce()

        listening = self._listen()
        raise_descriptor_limit()
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._serve(listening, on_started))

    def _reload(self, routing: Routing, reload: Callable[[], ModelList]) -> None:
        try:
            self._upstreams = parse_model_list(reload())
        except (AgentLightningError, OSError) as error:
            logger.error("Reload failed: %s; the models are unchanged", error)
        else:
            routing.replace(self._upstreams)
            logger.warning("The models are now: %s", ", ".join(upstream.name for upstream in self._upstreams))

    async def __aenter__(self) -> LLMProxy:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, listening: socket.socket, on_started: OnStarted) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        # A cookie that one call receives must not be sent with another. `UpstreamResponse` decompresses the responses,
        # because aiohttp does not limit their decompressed size.
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        ) as session:
            routing, recorder = Routing(self._upstreams, session, self._limits), CallRecorder(lambda: self.store)
            expiry = TokenExpiry(lambda: self.store, self._limits.attempt_token_seconds)
            app = ProxyApp(routing, recorder, self._authenticator, expiry, self._limits)
            server = GracefulServer(
                app,
                drain_seconds=DRAIN_TIMEOUT,
                on_started=lambda: on_started(server, routing),
                limits=self._limits,
            )
            await server.serve([listening])
            await recorder.flush(FLUSH_TIMEOUT)

    def _listen(self) -> socket.socket:
        listening = listen(self.host, self.port, server="proxy", remedy="choose another port")
        self.port = listening.getsockname()[1]
        return listening

    # Models

    @property
    def model_list(self) -> list[Upstream]:
        """The current upstreams."""
        return list(self._upstreams)

    def update_model_list(self, model_list: ModelList) -> None:
        """Replace all upstreams. Calls in flight continue on their current server; waiting calls go to the new ones."""
        self._upstreams = parse_model_list(model_list)
        if self._server is not None:
            self._server.portal.call(self._server.routing.replace, self._upstreams)

    async def pause(self, *names: str, drain: bool = True) -> None:
        """Make new calls to these models wait until `resume` is called. Without names, pause all models.

        Unless `drain` is False, also wait until all calls in flight to these models have ended.
        """
        if self._server is not None:
            await self._server.run(self._server.routing.pause, names)
            if drain:
                await self._server.run(self._server.routing.drain, names)

    async def resume(self, *names: str, policy_version: str | None = None) -> None:
        """Let waiting and new calls to these models proceed. Without names, resume all models.

        If `policy_version` is given, it is recorded on the spans of these calls.
        """
        if policy_version is not None:
            self.set_policy_version(policy_version, *names)
        if self._server is not None:
            await self._server.run(self._server.routing.resume, names)

    @asynccontextmanager
    async def paused(self, *names: str, policy_version: str | None = None) -> AsyncGenerator[None]:
        """Pause these models during the block, for example to change their weights. Without names, pause all models.

        The block starts once no calls to these models are in flight. `policy_version` is passed to `resume`.
        """
        await self.pause(*names)
        try:
            yield
        finally:
            await self.resume(*names, policy_version=policy_version)

    def set_policy_version(self, policy_version: str, *names: str) -> None:
        """Record this version on the spans of all calls to these models that start from now on.

        Without names, record it for all models.
        """
        self.update_model_list(
            [
                upstream.model_copy(update={"policy_version": policy_version})
                if not names or upstream.name in names
                else upstream
                for upstream in self._upstreams
            ]
        )

    # URLs

    @property
    def endpoint(self) -> str:
        """The `base_url` for an OpenAI client.

        Calls to this URL are not recorded, because they do not belong to an attempt.
        """
        return f"{base_url(self.host, self.port)}/v1"

    def as_resource(
        self,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        model: str | None = None,
        sampling_parameters: dict[str, Any] | None = None,
    ) -> LLM:
        """Return the proxy as a resource: an `LLM` for one attempt if both ids are given, or else a `ProxyLLM`.

        `model` may be omitted if the proxy has only one model.
        """
        proxied = ProxyLLM(
            endpoint=self.endpoint,
            model=model or self._only_model(),
            api_key=self._authenticator.secret,
            sampling_parameters=sampling_parameters or {},
        )
        if rollout_id is None and attempt_id is None:
            return proxied
        return LLM(
            endpoint=proxied.get_base_url(rollout_id, attempt_id),
            model=proxied.model,
            api_key=api_key_for_attempt(proxied.api_key, rollout_id or "", attempt_id or ""),
            sampling_parameters=proxied.sampling_parameters,
        )

    def attempt_token(self, rollout_id: str, attempt_id: str) -> str:
        """Return the API key that is valid only for this attempt. Raises `InvalidInput` if the proxy has no token."""
        return self._authenticator.attempt_token(rollout_id, attempt_id)

    def _only_model(self) -> str:
        names = list(dict.fromkeys(upstream.name for upstream in self._upstreams))
        if len(names) != 1:
            raise InvalidInput(
                f"pass model=; the models of this proxy are: {', '.join(names) or 'none'}", field="model"
            )
        return names[0]


OnStarted = Callable[[GracefulServer, Routing], None]


class _ServerThread:
    """A running server with its own thread and event loop."""

    def __init__(self, serve: Callable[[OnStarted], Awaitable[None]]) -> None:
        async def run(*, task_status: TaskStatus[tuple[GracefulServer, Routing]]) -> None:
            await serve(lambda server, routing: task_status.started((server, routing)))

        with ExitStack() as stack:
            self.portal = stack.enter_context(event_loop_thread("agl-proxy"))
            self.finished, (self._server, self.routing) = self.portal.start_task(run)
            self._stack = stack.pop_all()

    def stop(self) -> None:
        with self._stack:
            self._server.request_stop()
            self.finished.result()

    async def run(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run a coroutine function in the server's event loop, and await its completion in the caller's event loop."""
        await asyncio.wrap_future(self.portal.start_task_soon(function, *args))
