"""HTTP server in place of a model, which answers from a cassette."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from .cassette import Cassette, api_path
from .streams import to_event_stream

MAX_BODY: Final = 64 * 1024 * 1024


@asynccontextmanager
async def serve_cassette(cassette: Cassette) -> AsyncGenerator[str]:
    """Serve a cassette until the block ends; the value is the `base_url`, with `/v1`."""

    async def respond(request: web.Request) -> web.Response:
        path, body = api_path(request.path), await request.json()
        response = cassette.response_to(path, body)
        if response is None:
            # 400, which no SDK retries.
            error: dict[str, Any] = {"type": "replay", "message": f"replay: {cassette.difference}"}
            return web.json_response({"type": "error", "error": error}, status=400)
        if body.get("stream"):
            return web.Response(body=to_event_stream(path, response, body), content_type="text/event-stream")
        return web.json_response(response)

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_post("/{path:.*}", respond)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()
