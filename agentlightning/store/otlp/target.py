"""Where spans are sent on to, as it is written on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from ...errors import InvalidInput

_PATH = "/v1/traces"


@dataclass(frozen=True)
class Target:
    """An OTLP/HTTP receiver, and the name under which its place among the spans is kept."""

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @classmethod
    def named(cls, text: str, headers: Mapping[str, str] | None = None) -> Target:
        """From `NAME=URL`, or a URL whose host is the name. Raises `InvalidInput`."""
        name, mark, url = text.partition("=")
        if not mark or "/" in name:
            name, url = "", text
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput("an OTLP target is written [NAME=]URL, with http:// or https://", field="export_otlp")
        if parts.username or parts.password:
            raise InvalidInput("keys of an OTLP target go into its headers, not into its URL", field="export_otlp")
        if not parts.path.endswith(_PATH):
            parts = parts._replace(path=f"{parts.path.rstrip('/')}{_PATH}")
        return cls(name or parts.netloc, parts.geturl(), headers or {})


def headers_in(text: str) -> dict[str, str]:
    """Headers as OpenTelemetry's variables have them: `name=value,name=value`. Raises `InvalidInput`."""
    headers: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, mark, value = entry.partition("=")
        if not mark or not name.strip() or not (name + value).isprintable():
            raise InvalidInput("headers of an OTLP target are written name=value,name=value", field="export_headers")
        headers[unquote(name.strip())] = unquote(value.strip())
    return headers
