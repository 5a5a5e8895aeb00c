"""Export of a run, that is, the contents of a store, as one self-contained HTML page.

The dashboard's JavaScript modules are embedded as `data:` URLs in an import map, and the run is embedded as JSON. The
page's content security policy blocks everything that is not embedded.
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

DASHBOARD = Path(__file__).parent
STYLESHEETS = ("vendor/uplot.css", "style/base.css", "style/components.css", "style/rollouts.css", "style/views.css")
ENTRY_POINT = 'import "agl/main.js";'

_IMPORT = re.compile(r"""(\bfrom\s*|\bimport\s*)["'](\.{1,2}/[^"']+)["']""")


async def collect_run(store: LightningStore, limit: int) -> tuple[dict[str, Any], int]:
    """Return the data to export, and the total number of rollouts in the store.

    The data contains the newest `limit` rollouts with their attempts and spans, all resources and workers, and the
    store's summary.
    """
    page = await store.query_rollouts(sort_order="desc", limit=limit)
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


def render_page(run: dict[str, Any]) -> str:
    """Return the HTML page that shows `run`, the data returned by `collect_run`."""
    import_map = json.dumps({"imports": _modules()})
    style = "\n".join((DASHBOARD / name).read_text(encoding="utf-8") for name in STYLESHEETS)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_csp_hash(import_map)} {_csp_hash(ENTRY_POINT)} data:",
            f"style-src {_csp_hash(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        )
    )
    icon = _data_url("image/svg+xml", (DASHBOARD / "icon.svg").read_bytes())
    # Escape `<`, because a `</script>` in the data would end the script element early.
    run_json = to_json(run).decode().replace("<", "\\u003c")
    return _PAGE.format(
        policy=policy, icon=icon, style=style, import_map=import_map, entry_point=ENTRY_POINT, run=run_json
    )


def _modules() -> dict[str, str]:
    """Return the import map, from the name of each JavaScript module, such as `agl/main.js`, to its `data:` URL."""
    names = [path.relative_to(DASHBOARD).as_posix() for path in sorted(DASHBOARD.rglob("*.js"))]
    return {f"agl/{name}": _data_url("text/javascript", _with_mapped_imports(name).encode()) for name in names}


def _with_mapped_imports(name: str) -> str:
    """Return the source of the JavaScript file `name`, with relative imports replaced by names in the import map."""
    folder = PurePosixPath(name).parent
    text = (DASHBOARD / name).read_text(encoding="utf-8")
    return _IMPORT.sub(lambda match: f'{match[1]}"agl/{normpath(folder / match[2])}"', text)


def _data_url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


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
<script type="importmap">{import_map}</script>
<script type="application/json" id="run">{run}</script>
<script type="module">{entry_point}</script>
</head>
<body><div id="page"><p class="loading">Loading the run…</p></div></body>
</html>
"""
