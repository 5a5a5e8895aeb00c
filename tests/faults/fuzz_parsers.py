"""Texts generated from grammars for the parsers of untrusted input: redaction, prompt templates, SSE and OTLP.

    python -m tests.faults.fuzz_parsers --cases 20000

A text repeats a short random unit, because repetition is what makes a parser slow. Each is processed at two sizes, the
second four times the first. No text may cost more than 100 ms of CPU time or 64 MB for each MB, or more than
proportionally more when it is longer. The same seed generates the same cases.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agentlightning.errors import PromptError
from agentlightning.instrumentation.sse import EventBuffer, events
from agentlightning.redaction import redact
from agentlightning.types import PromptTemplate

from ..store.test_otlp import OtlpServer, serving
from ..store.test_otlp_limits import message, request
from .long_run import run_from_command_line

MIN_SIZE, MAX_SIZE = 256, 128 * 1024
"""Sizes of the shorter text in bytes."""
GROWTH = 4
"""Ratio of the two sizes."""
SLACK = 3
MAX_SECONDS, MAX_BYTES = 0.1, 64 * 2**20
"""CPU time that refusing a text may cost, and memory that a text may cost, or each MB of it if it is longer."""
MAX_SECONDS_PER_BYTE = 2e-6
"""CPU time that accepting a text may cost for each of its bytes, on a machine under load."""
MAX_COMPILATION_SECONDS = 0.5
"""CPU time that a jinja template may cost, whatever its size: compiling the largest permitted one takes most of it."""
FLOOR = 0.01
"""CPU seconds below which the ratio of two times means nothing."""
TRIES = 5
"""Measurements of a text that seems slow: other load on the machine only adds time."""


class Refused(str):
    """A refusal of a text, as it should be."""

    __slots__ = ()


Check = Callable[[], Awaitable[str]]
"""Processes a text, and returns a description of a wrong result, an empty string, or a `Refused`."""


@dataclass
class FuzzParsersResult:
    """The cases, and the texts that a parser handled wrongly or slowly."""

    tried: int = 0
    broken: list[str] = field(default_factory=list[str])
    slowest_ms: dict[str, float] = field(default_factory=dict[str, float])
    """Maximum CPU time of a text for each parser."""

    @property
    def problems(self) -> list[str]:
        return self.broken

    def __str__(self) -> str:
        slowest = ", ".join(f"{parser} {milliseconds} ms" for parser, milliseconds in self.slowest_ms.items())
        return f"{self.tried} generated texts at two sizes: {len(self.broken)} wrong or slow; slowest: {slowest}"


async def fuzz_parsers(
    cases: int, *, first_seed: int = 1, max_size: int = MAX_SIZE, result: FuzzParsersResult | None = None
) -> FuzzParsersResult:
    """Try generated texts, the parsers in turn."""
    result = result or FuzzParsersResult()
    async with serving() as server:
        parsers: dict[str, Callable[[random.Random], Callable[[int], Check]]] = {
            "redaction": _redaction,
            "f-string template": partial(_template, "f-string"),
            "jinja template": partial(_template, "jinja"),
            "SSE": _sse,
            "OTLP": partial(_otlp, server),
        }
        for seed in range(first_seed, first_seed + cases):
            parser = list(parsers)[seed % len(parsers)]
            rng = random.Random(seed)
            size = round(MIN_SIZE * (max_size / MIN_SIZE) ** rng.random())
            await _try_case(f"{parser}, seed {seed}", parsers[parser](rng), size, result)
            result.tried += 1
    return result


async def _try_case(case: str, make: Callable[[int], Check], size: int, result: FuzzParsersResult) -> None:
    parser = case.partition(",")[0]
    allowed = max(1.0, GROWTH * size / 2**20)
    before = _peak_memory()
    short, outcome = await _measure(make(size), 0.0)
    limit = MAX_SECONDS * allowed
    if parser == "jinja template":
        limit = MAX_COMPILATION_SECONDS
    elif not isinstance(outcome, Refused):
        limit = max(limit, MAX_SECONDS_PER_BYTE * GROWTH * size)
    enough = min(limit, max(FLOOR, SLACK * GROWTH * short))
    long, problem = await _measure(make(GROWTH * size), enough)
    memory = _peak_memory() - before
    result.slowest_ms[parser] = max(result.slowest_ms.get(parser, 0.0), round(1000 * long, 1))
    if long > enough:
        problem = (
            _unless_refused(problem)
            or f"{1000 * short:.1f} ms for {size} bytes, {1000 * long:.1f} ms for {GROWTH} times as many"
        )
    if memory > MAX_BYTES * allowed:
        problem = _unless_refused(problem) or f"{memory / 2**20:.0f} MB of memory for {GROWTH * size} bytes"
    if problem and not isinstance(problem, Refused):
        result.broken.append(f"{case}: {problem}")


async def _measure(check: Check, enough: float) -> tuple[float, str]:
    """Return the least CPU time of several tries, which end when it is `enough`, and the problem found."""
    least, problem = float("inf"), ""
    for _ in range(TRIES):
        started = time.process_time()
        problem = _unless_refused(problem) or await check()
        least = min(least, time.process_time() - started)
        if least <= max(enough, FLOOR):
            break
    return least, problem


def _unless_refused(problem: str) -> str:
    return "" if isinstance(problem, Refused) else problem


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _unit(rng: random.Random, fragments: list[str]) -> str:
    return "".join(rng.choices(fragments, k=rng.randint(1, 6)))


# Redaction

_KEYS = ["sk-proj-" + "a1B2" * 12, "sk-ant-api03-" + "x9" * 24, "ghp_" + "c1" * 18, "hf_" + "e" * 34]
_KEYS += ["AKIA" + "A1" * 8, "AIza" + "b_-3" * 9, "xoxb-123456789012-abcdefghij", "github_pat_" + "d" * 50]
_BEFORE_KEYS = ["\n", "\t", " ", '"', "'", "é", "=", ": ", "日", "\x1b[31m", "(", "😀"]
_TEXT = ["-sk-", "sk-", "sk", "-", "_", "AKIA", "AIza", "hf_", "ghp_", "xoxb-", "Bearer ", "bearer", "agl-attempt-"]
_TEXT += [
    "\\",
    "\\n",
    "\\u00e9",
    "\\u0073",
    "\\\\u0073",
    "%20",
    "%2525",
    "%73",
    "&#115;",
    "&#x73;",
    "é",
    "task-",
    "risk-",
]
_TEXT += ["a", "B7", "0", "a1B2c3D4", '"', "{", "}", ":", " ", "\n", ".", "/", "=", "\x1b[31m", "=3D", "github_pat_"]


def _redaction(rng: random.Random) -> Callable[[int], Check]:
    unit, key, before = _unit(rng, _TEXT), rng.choice(_KEYS), rng.choice(_BEFORE_KEYS)
    encode = rng.choice(
        [str, json.dumps, partial(json.dumps, ensure_ascii=False), lambda text: json.dumps(json.dumps(text))]
    )

    def make(size: int) -> Check:
        half = unit * (size // len(unit) // 2 + 1)
        text = encode(f"{half}{before}{key} {half}")

        async def check() -> str:
            return f"{key} remains after {unit!r} and {before!r}" if key in redact(text) else ""

        return check

    return make


# Prompt templates

_F_STRING = [
    "{",
    "}",
    "{{",
    "}}",
    "{a",
    "{a}",
    "{b:>9}",
    "{a.",
    "{a[",
    "{a!r}",
    ":",
    ">99",
    ".9",
    "]",
    " ",
    "x",
    "{0}",
    "é",
]
_JINJA = ["{{ ", " }}", "{% for i in range(9) %}", "{% for i in range(10**9) %}{% endfor %}", "{% endfor %}", "{{ a }}"]
_JINJA += ["{% set a = a ~ a %}", "{{ 'a' * 9999999 }}", "{{ a | center(9**9) }}", "{{ 10 ** 10 ** 9 }}", "{% if a %}"]
_JINJA += [
    "{% endif %}",
    "{% macro m() %}{{ m() }}{% endmacro %}",
    "{{ m() }}",
    "{{ lipsum(n=9999) }}",
    "{#",
    "#}",
    "'",
]
_JINJA += [
    "(",
    ")",
    "[",
    "]",
    "a.b",
    "a|upper",
    "-",
    "9",
    "{% raw %}",
    "{% endraw %}",
    "{{ [0] * 9**9 }}",
    "x",
    "\n",
    "{%",
]
_JINJA += ["{{ '%999999999d' | format(1) }}", "{{ a.__class__ }}", "{{ a|replace('a', 'aaaa') }}", "{{ ("]


def _template(engine: Any, rng: random.Random) -> Callable[[int], Check]:
    unit = _unit(rng, _F_STRING if engine == "f-string" else _JINJA)
    values = {"a": "a" * rng.choice([1, 1_000]), "b": rng.choice(["text", 1.5])}

    def make(size: int) -> Check:
        repeated, tries = unit * (size // len(unit) + 1), itertools.count()

        async def check() -> str:
            # No two tries have the same text, because compiled templates are cached.
            template = PromptTemplate(template=repeated + " " * next(tries), engine=engine)
            try:
                length = len(template.format(**values))
            except PromptError:
                return Refused("PromptError")
            except Exception as error:
                return f"{type(error).__name__} instead of PromptError for {unit!r}"
            allowed = PromptTemplate.max_length + len(template.template)
            return f"{length} characters for {unit!r}" if length > allowed else ""

        return check

    return make


# Server-sent events

_STREAM = [
    "data: ",
    "data:",
    'data: {"a": 1}',
    '{"a":',
    "1}",
    "\n",
    "\n\n",
    "\r\n",
    "\r\n\r\n",
    "\r",
    "\r\r",
    ": ping",
    "event: x",
]
_STREAM += [
    'data: {"b": [1, 2]}\n\n',
    'data: {"b": [1, 2]}\r\n\r\n',
    "data: [DONE]\n\n",
    "é",
    "[",
    "]",
    "id: 1\n",
    "\0",
    "x",
]


def _sse(rng: random.Random) -> Callable[[int], Check]:
    unit, chunk = _unit(rng, _STREAM).encode(), rng.choice([1, 2, 3, 64, 1_000])

    def make(size: int) -> Check:
        stream = unit * (size // len(unit) // (32 if chunk < 64 else 1) + 1)

        async def check() -> str:
            whole, pieces = (
                _events_of([stream]),
                _events_of([stream[at : at + chunk] for at in range(0, len(stream), chunk)]),
            )
            return "" if whole == pieces else f"other events of {unit!r} in chunks of {chunk}"

        return check

    return make


def _events_of(chunks: list[bytes]) -> list[Any]:
    buffer, found = EventBuffer(), list[Any]()
    for chunk in chunks:
        found += events(buffer.add(chunk))
    return found + events(buffer.take())


# OTLP

_IDS = message(0x0A, b"t" * 16) + message(0x12, b"s" * 8)
_PROTOBUF = [
    b"\x12\x00",
    b"\x0a\x00",
    b"\x4a\x00",
    message(0x12, _IDS),
    message(0x0A, b""),
    b"\x78\x01",
    b"\xff",
    b"\x00",
]
_PROTOBUF += [b"\x50" + b"\xff" * 9 + b"\x01", message(0x4A, message(0x0A, b"key")), message(0x12, message(0x12, _IDS))]
_OTLP_JSON = [
    "[],",
    "{},",
    "[",
    "]",
    '{"spans":[',
    '"name":"x",',
    '{"resourceSpans":[',
    "1e400,",
    "9" * 50 + ",",
    '"\\ud800",',
]
_OTLP_JSON += [
    '{"traceId":"',
    "7" * 32,
    '",',
    "null,",
    '{"attributes":[',
    '{"key":"k","value":{"intValue":"1"}},',
    "}]",
    "é",
]


def _otlp(server: OtlpServer, rng: random.Random) -> Callable[[int], Check]:
    is_json, is_compressed, wraps = rng.random() < 0.4, rng.random() < 0.6, rng.randint(0, 3)
    unit = _unit(rng, _OTLP_JSON).encode() if is_json else b"".join(rng.choices(_PROTOBUF, k=rng.randint(1, 4)))
    headers = {"Content_Type": "application/json" if is_json else "application/x-protobuf"}
    headers |= {"Content_Encoding": "gzip"} if is_compressed else {}
    wrap = rng.choice([lambda body: body, lambda body: message(0x12, body), request])

    def make(size: int) -> Check:
        body = unit * (size // len(unit) + 1)
        if is_json:
            body = rng.choice([b"", b"[", b'{"resourceSpans":[{"scopeSpans":[{"spans":[']) + body
        else:
            for _ in range(wraps):
                body = wrap(body)
        if is_compressed:
            body = gzip.compress(body, 1) if wraps else b"".join(gzip.compress(unit, 1) for _ in range(size // 64))

        async def check() -> str:
            answer = await server.post(body, **headers)
            if answer.status in (400, 413):
                return Refused(answer.status)
            return "" if answer.status == 200 else f"status {answer.status} for {unit!r}: {answer.text[:200]}"

        return check

    return make


def main() -> None:
    result = FuzzParsersResult()
    run_from_command_line(
        "fuzz_parsers",
        __doc__,
        result,
        lambda given, _: asyncio.run(fuzz_parsers(given.cases, first_seed=given.seed, result=result)),
        cases=20_000,
        seed=1,
    )


if __name__ == "__main__":
    main()
