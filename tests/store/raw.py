"""Plain HTTP requests to a store, valid or not: bytes in, status and JSON out."""

from __future__ import annotations

import asyncio
import inspect
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from yarl import URL

from agentlightning.store.contract import Route, operations

ROUTES: dict[str, Route] = {route.name: route for route, _ in operations()}
SIGNATURES: dict[str, dict[str, inspect.Parameter]] = {
    route.name: {name: each for name, each in inspect.signature(method).parameters.items() if name != "self"}
    for route, method in operations()
}


@dataclass
class RawResponse:
    """The response to a request."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Raw:
    """A client of one store without any checks of its own."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))

    async def __aenter__(self) -> Raw:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> RawResponse:
        """Send one request, with the path as given; `_` in header names stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL(self.endpoint + path, encoded=True)
        async with self._session.request(method, url, data=body and BytesIO(body), headers=named) as response:
            return RawResponse(response.status, dict(response.headers), await response.text(errors="replace"))

    async def call(self, name: str, arguments: Mapping[str, Any], **headers: str) -> RawResponse:
        """Call an operation of the contract, with arguments that may be invalid."""
        method, path, body = request(name, arguments)
        return await self.send(method, path, body, **headers)


def plain_path(route: Route) -> str:
    """Return a route's path with the names of its parameters as their values."""
    return route.path.replace("{", "").replace("}", "")


def request(name: str, arguments: Mapping[str, Any]) -> tuple[str, str, bytes | None]:
    """Return method, path and body of an operation's request."""
    route = ROUTES[name]
    rest = dict(arguments)
    path = route.path
    for parameter in route.path_parameters:
        path = path.replace(f"{{{parameter}}}", quote(str(rest.pop(parameter)), safe=""))
    if route.method == "GET":
        return "GET", path + (f"?{urlencode(rest)}" if rest else ""), None
    return "POST", path, json.dumps(rest).encode()


def gzip_bomb(size: int) -> bytes:
    """Return zeros in gzip format; one compressed piece is repeated, which decompresses like any other gzip data."""
    piece, packer = bytes(2**24), zlib.compressobj(9, wbits=31)
    packed = [packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    end, checksum = b"\x03\x00", bytes(4)
    return packed[0] + packed[1] * (size // len(piece) - 1) + end + checksum + size.to_bytes(4, "little")


async def send_bytes(endpoint: str, data: bytes) -> bytes:
    """Send bytes that need not be valid HTTP; return the first bytes received before the connection is closed."""
    url = urlsplit(endpoint)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(65536), 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()
