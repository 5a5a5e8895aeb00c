"""The dashboard's files over HTTP: read once, compressed once, under a policy that lets nothing else in.

Only files that were there at the start are served, each under its own name, so no path of a user reaches the disk.
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

from ..errors import NotFound

DASHBOARD = Path(__file__).parent.parent / "dashboard"

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
    # Kept by the browser, asked for again every time: a new release is seen at once.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}

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
    found = [path for path in sorted(DASHBOARD.rglob("*")) if path.suffix in _KINDS]
    names = [path.relative_to(DASHBOARD).as_posix() for path in found]
    # Without these the browser would find one module after the other, as each names the next.
    modules = "".join(f'<link rel="modulepreload" href="dashboard/{name}" />' for name in names if name.endswith(".js"))
    return {name: _file(path, modules) for name, path in zip(names, found, strict=True)}


def page_routes() -> list[Route]:
    """`/` is the page; what it is made of lies below `/dashboard/`."""
    return [Route("/", _page, methods=["GET"]), Route("/dashboard/{name:path}", _page, methods=["GET"])]


async def _page(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    file = files().get(name)
    if file is None:
        raise NotFound(f"the dashboard has no file {name}")
    headers = {**HEADERS, "ETag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.compressed, media_type=file.kind, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.content, media_type=file.kind, headers=headers)


def _file(path: Path, modules: str) -> File:
    content = path.read_bytes().replace(b"<!-- modules -->", modules.encode())
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return File(content, gzip.compress(content, mtime=0), _KINDS[path.suffix], tag)
