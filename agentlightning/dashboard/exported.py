"""A run and the whole dashboard as one page, which asks nobody for anything.

The modules become `data:` URLs that an import map names; the run is JSON in the page. The page's own policy lets in
these and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

from pydantic_core import to_json

from ..store import LightningStore

HERE = Path(__file__).parent
STYLES = ("vendor/uplot.css", "style/base.css", "style/parts.css", "style/rollouts.css", "style/views.css")
START = 'import "agl/main.js";'

_IMPORT = re.compile(r"""(\bfrom\s*|\bimport\s*)["'](\.{1,2}/[^"']+)["']""")


async def run_of(store: LightningStore, newest: int) -> tuple[dict[str, Any], int]:
    """What the page is to know of the run, and how many rollouts the run has."""
    page = await store.query_rollouts(sort_order="desc", limit=newest)
    rollouts = list(reversed(page.items))
    ids = [rollout.rollout_id for rollout in rollouts]
    return {
        "exported": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "rollouts": rollouts,
        "attempts": {rollout_id: (await store.query_attempts(rollout_id)).items for rollout_id in ids},
        "spans": {rollout_id: (await store.query_spans(rollout_id)).items for rollout_id in ids},
        "resources": (await store.query_resources()).items,
        "workers": (await store.query_workers()).items,
        "summary": await store.summary(),
    }, page.total


def page_of(run: dict[str, Any]) -> str:
    """The page that holds `run`."""
    names = json.dumps({"imports": _modules()})
    style = "\n".join((HERE / name).read_text(encoding="utf-8") for name in STYLES)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_allowed(names)} {_allowed(START)} data:",
            f"style-src {_allowed(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        )
    )
    icon = _data_url("image/svg+xml", (HERE / "icon.svg").read_bytes())
    return _PAGE.format(policy=policy, icon=icon, style=style, names=names, start=START, run=_as_text(run))


def _modules() -> dict[str, str]:
    """Every module by the name that the import map gives it."""
    found = (path.relative_to(HERE).as_posix() for path in sorted(HERE.rglob("*.js")))
    return {f"agl/{name}": _data_url("text/javascript", _renamed(name).encode()) for name in found}


def _renamed(name: str) -> str:
    """The module, with its neighbours called by the names of the import map."""
    folder = PurePosixPath(name).parent
    text = (HERE / name).read_text(encoding="utf-8")
    return _IMPORT.sub(lambda found: f'{found[1]}"agl/{normpath(folder / found[2])}"', text)


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _allowed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _as_text(run: dict[str, Any]) -> str:
    # Within a script element nothing but `<` could end it or begin another.
    return to_json(run).decode().replace("<", "\\u003c")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Agent Lightning</title>
<link rel="icon" href="{icon}">
<style>{style}</style>
<script type="importmap">{names}</script>
<script type="application/json" id="run">{run}</script>
<script type="module">{start}</script>
</head>
<body><div id="page"><p class="waiting">Opening the run…</p></div></body>
</html>
"""
