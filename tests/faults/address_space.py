"""A store with very many spans whose process has little address space: it accepts them, and all its queries work.

python -m tests.faults.address_space --spans 1000000 --megabytes 1000
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentlightning.store import LightningStoreClient
from agentlightning.types import Span

from ..processes import Program
from .long_run import run_from_command_line

ROOT = Path(__file__).parents[2]
SPANS_PER_ROLLOUT, SPANS_PER_CALL, CLIENTS = 1_000, 100, 4


@dataclass
class AddressSpaceResult:
    """Counts and address space."""

    limit_megabytes: int = 0
    acknowledged: int = 0
    peak_megabytes: float = 0.0
    """The largest address space of the store's process."""
    failed: list[str] = field(default_factory=list[str])
    """Queries and commands that failed or returned a wrong number."""

    @property
    def problems(self) -> list[str]:
        return self.failed

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} spans in a store limited to {self.limit_megabytes} MB of address space: at most "
            f"{self.peak_megabytes:.0f} MB used, {len(self.failed)} failures"
        )


async def fill_and_query(
    path: Path, spans: int, megabytes: int, result: AddressSpaceResult | None = None
) -> AddressSpaceResult:
    """Fill a store with `spans` spans, and query them, under the limit."""
    result = result or AddressSpaceResult()
    result.limit_megabytes = megabytes
    arguments = ["store", "--port", "0", "--db", str(path), "--log-level", "warning"]
    with Program("agentlightning.cli", *arguments, cwd=ROOT, wrapper=_limited_to(megabytes)) as store:
        url = (await asyncio.to_thread(store.wait_for_line, "Store at (.*),"))[1]
        async with LightningStoreClient(url, give_up_after=10) as client:
            rollouts = [await client.start_rollout("task") for _ in range(-(-spans // SPANS_PER_ROLLOUT))]
            ids = [(each.rollout_id, each.attempt.attempt_id) for each in rollouts]
            await asyncio.gather(*(_add_spans(client, ids[number::CLIENTS], result) for number in range(CLIENTS)))
            await _query(client, ids, result)
        result.peak_megabytes = _peak_megabytes(store.pid)
        result.failed += store.lines[1:]
    return result


def run_commands(path: Path, megabytes: int, result: AddressSpaceResult) -> None:
    """Run the maintenance commands on the database, under the limit."""
    for command in (["backup", f"{path}.copy"], ["check"], ["stats"]):
        agl = [sys.executable, "-m", "agentlightning.cli", "store", *command, "--db", str(path)]
        ended = subprocess.run([*_limited_to(megabytes), *agl], cwd=ROOT, capture_output=True, text=True)
        result.failed += [f"{command[0]}: {ended.stderr}"] if ended.returncode else []


def _limited_to(megabytes: int) -> list[str]:
    return ["sh", "-c", f'ulimit -v {megabytes * 1_000}; exec "$0" "$@"']


async def _add_spans(
    client: LightningStoreClient, attempts: Sequence[tuple[str, str]], result: AddressSpaceResult
) -> None:
    for rollout_id, attempt_id in attempts:
        for _ in range(SPANS_PER_ROLLOUT // SPANS_PER_CALL):
            given = [
                Span.from_attributes(rollout_id=rollout_id, attempt_id=attempt_id, attributes={"n": number})
                for number in range(SPANS_PER_CALL)
            ]
            stored = await client.add_many_spans(given)
            result.acknowledged += len(stored)


async def _query(client: LightningStoreClient, ids: Sequence[tuple[str, str]], result: AddressSpaceResult) -> None:
    counts = {
        "spans": (await client.query_spans(ids[0][0], sort_by="name"), SPANS_PER_ROLLOUT),
        "substrings": (await client.query_spans(ids[-1][0], name_contains="a", limit=1), 1),
        "rollouts": (await client.query_rollouts(sort_by="start_time"), len(ids)),
        "searched rollouts": (await client.query_rollouts(text_contains="task"), len(ids)),
        "truncated rollouts": (await client.query_rollouts(cut_at=100), len(ids)),
    }
    result.failed += [
        f"{name}: {len(found)} of {count}" for name, (found, count) in counts.items() if len(found) != count
    ]
    if (stored := (await client.statistics())["spans"]) != result.acknowledged:
        result.failed.append(f"statistics: {stored} spans")
    await client.summary()


def _peak_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmPeak:\s+(\d+) kB", status)[0]) / 1_000


def main() -> None:
    result = AddressSpaceResult()

    def run(given: argparse.Namespace, folder: Path) -> None:
        asyncio.run(fill_and_query(folder / "agl.db", given.spans, given.megabytes, result))
        run_commands(folder / "agl.db", given.megabytes, result)

    run_from_command_line(
        "address_space",
        __doc__,
        result,
        run,
        spans=1_000_000,
        megabytes=1_000,
    )


if __name__ == "__main__":
    main()
