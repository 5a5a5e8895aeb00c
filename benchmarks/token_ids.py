"""Agreement of the token ids that the proxy records with those that the model server sent.

    python -m benchmarks.token_ids [--calls 100] [--turns 6]

llama.cpp serves the small local model, and a server in between keeps its raw responses. Calls go through the proxy
(chats and completions, whole and streamed in turn) and are compared with those responses. Then a conversation of
several turns is merged; every id in it must be one that the model received or generated. Writes
benchmarks/results/token_ids.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

import agentlightning as agl
from agentlightning.local_model import LocalModel, serve_local_model
from tests.llm_proxy.conftest import start_attempt
from tests.llm_proxy.token_checks import check_calls, check_conversation

from .results import write_result


async def measure(base_url: str, calls: int, turns: int) -> dict[str, Any]:
    """Run both comparisons, each with its own attempt."""
    async with agl.InMemoryLightningStore() as store, agl.LLMProxy(model_list={"m": base_url}, store=store) as proxy:
        compared = await check_calls(base_url, proxy, await start_attempt(store), calls)
        merged = await check_conversation(base_url, proxy, await start_attempt(store), turns)
    return {"calls": compared, "conversation": merged}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--turns", type=int, default=6)
    arguments = parser.parse_args()
    with serve_local_model(LocalModel(threads=1)) as base_url:
        result = asyncio.run(measure(base_url, arguments.calls, arguments.turns))
    print(json.dumps(result, indent=2))
    write_result("token_ids", {"model": "SmolLM2-135M-Instruct on llama.cpp", **result})


if __name__ == "__main__":
    main()
