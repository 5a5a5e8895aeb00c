"""The dashboard's files over HTTP: read once, compressed once, under a policy that lets nothing else in.

Only files that were there at the start are served, each under its own name, so no path of a user reaches the disk.
The page asks for them below a name that is made of what they hold: a browser that has them does not ask again, and a
new release is seen at once.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import NotFound

DASHBOARD = Path(__file__).parent.parent.parent / "dashboard"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No string becomes markup or code, whatever a span holds.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}

_ASKED_FOR_AGAIN = {"Cache-Control": "no-cache"}
_KEPT_FOR_GOOD = {"Cache-Control": "public, max-age=31536000, immutable"}

_KINDS = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


@dataclass(frozen=True)
class File:
    """One file of the dashboard, ready to be sent."""

    content: bytes
    compressed: bytes
    kind: str
    tag: str


@cache
def files() -> dict[str, File]:
    """The dashboard's files by their path below `dashboard/`."""
    contents = _contents() | {"index.html": _index()}
    return {name: _file(content, _KINDS[Path(name).suffix]) for name, content in contents.items()}


@cache
def version() -> str:
    """What the page puts before the names of its files: another for other files."""
    return _hash(b"".join(_contents().values()))


def page_routes() -> list[Route]:
    """`/` is the page; what it is made of lies below `/dashboard/`."""
    return [Route("/", _page, methods=["GET"]), Route("/dashboard/{name:path}", _page, methods=["GET"])]


async def _page(request: Request) -> Response:
    asked = request.path_params.get("name", "index.html")
    name = asked.removeprefix(f"{version()}/")
    file = files().get(name)
    if file is None:
        raise NotFound(f"the dashboard has no file {asked}")
    kept = _ASKED_FOR_AGAIN if name == asked else _KEPT_FOR_GOOD
    headers = {**HEADERS, **kept, "ETag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.compressed, media_type=file.kind, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.content, media_type=file.kind, headers=headers)


@cache
def _contents() -> dict[str, bytes]:
    found = [path for path in sorted(DASHBOARD.rglob("*")) if path.suffix in _KINDS]
    return {path.relative_to(DASHBOARD).as_posix(): path.read_bytes() for path in found}


def _index() -> bytes:
    """The page, with every file that it needs, so that the browser does not find one module after the other."""
    names = [name for name in _contents() if name.endswith(".js")]
    modules = "".join(f'<link rel="modulepreload" href="dashboard/{name}" />' for name in names)
    page = _contents()["index.html"].replace(b"<!-- modules -->", modules.encode())
    return page.replace(b'"dashboard/', f'"dashboard/{version()}/'.encode())


def _file(content: bytes, kind: str) -> File:
    return File(content, gzip.compress(content, mtime=0), kind, f'"{_hash(content)}"')


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
