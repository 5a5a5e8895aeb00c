"""The store's HTTP interface as a stranger sees it: bytes out, status and JSON back."""

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
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Raw:
    """Plain requests to one store."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))

    async def __aenter__(self) -> Raw:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request, its path as it is given."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL(self.endpoint + path, encoded=True)
        async with self._session.request(method, url, data=body and BytesIO(body), headers=named) as response:
            return Answer(response.status, dict(response.headers), await response.text(errors="replace"))

    async def call(self, name: str, arguments: Mapping[str, Any], **headers: str) -> Answer:
        """One operation of the contract, with arguments that need not fit it."""
        method, path, body = request(name, arguments)
        return await self.send(method, path, body, **headers)


def request(name: str, arguments: Mapping[str, Any]) -> tuple[str, str, bytes | None]:
    """How an operation is asked for: method, path and body."""
    route = ROUTES[name]
    rest = dict(arguments)
    path = route.path
    for parameter in route.path_parameters:
        path = path.replace(f"{{{parameter}}}", quote(str(rest.pop(parameter)), safe=""))
    if route.method == "GET":
        return "GET", path + (f"?{urlencode(rest)}" if rest else ""), None
    return "POST", path, json.dumps(rest).encode()


def bomb_of(size: int) -> bytes:
    """Zeros, packed with gzip; made of one packed piece again and again, which is the same to whoever unpacks it."""
    piece, packer = bytes(2**24), zlib.compressobj(9, wbits=31)
    packed = [packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    end, checksum = b"\x03\x00", bytes(4)
    return packed[0] + packed[1] * (size // len(piece) - 1) + end + checksum + size.to_bytes(4, "little")


async def bytes_to(endpoint: str, sent: bytes) -> bytes:
    """What a store answers to bytes that need not be HTTP, up to the end of the connection or of the answer's head."""
    where = urlsplit(endpoint)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(65536), 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()
