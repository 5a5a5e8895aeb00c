"""The player: a server that stands where the model was and answers from the tape."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

from aiohttp import web

from .cassette import Tape, path_of
from .streams import events_of

MOST_BYTES: Final = 64 * 1024 * 1024


class Player:
    """Serves a tape at `url` while it is entered."""

    url: str

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        app = web.Application(client_max_size=MOST_BYTES)
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)

    async def __aenter__(self) -> Player:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        path, body = path_of(request.path), await request.json()
        response = self._tape.answer(path, body)
        if response is None:
            # 400, which no SDK tries again.
            error: dict[str, Any] = {"type": "replay", "message": f"replay: {self._tape.difference}"}
            return web.json_response({"type": "error", "error": error}, status=400)
        if body.get("stream"):
            return web.Response(body=events_of(path, response, body), content_type="text/event-stream")
        return web.json_response(response)
