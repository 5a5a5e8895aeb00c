"""Whether what the proxy records of tokens is what the server sent, number for number.

    python -m benchmarks.token_ids [--calls 100] [--turns 6]

llama.cpp serves the small local model; something in between keeps its own bytes. Calls go through the proxy, chats and
completions, whole and streamed in turn, and are compared with those bytes; then a conversation of several turns is
merged, and every id in it has to be one that the model was given or chose itself. Writes results/token_ids.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.local_model import LocalModel, serve_local_model
from tests.llm_proxy.agreement import compare, converse
from tests.llm_proxy.conftest import started

RESULTS = Path(__file__).parent / "results/token_ids.json"


async def measure(base_url: str, calls: int, turns: int) -> dict[str, Any]:
    """Both comparisons, each with an attempt of its own."""
    async with agl.InMemoryLightningStore() as store, agl.LLMProxy(model_list={"m": base_url}, store=store) as proxy:
        compared = await compare(base_url, proxy, await started(store), calls)
        merged = await converse(base_url, proxy, await started(store), turns)
    return {"calls": compared, "conversation": merged}


def main() -> None:
    """Measure and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=100)
    options.add_argument("--turns", type=int, default=6)
    given = options.parse_args()
    with serve_local_model(LocalModel(threads=1)) as base_url:
        figures = asyncio.run(measure(base_url, given.calls, given.turns))
    result = {"python": platform.python_version(), "model": "SmolLM2-135M-Instruct on llama.cpp", **figures}
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
