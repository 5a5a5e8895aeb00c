"""Every call of a trace, once: what several spans tell of one call becomes one view.

Spans tell of the same call when they carry the same response id; or when one is inside the other, in the trace and in
time, and nothing contradicts; or beside the other under one parent, for libraries that keep their spans to themselves;
or when they are the failed tries before the one that was answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...types import Span
from . import agentops
from .continued import continued
from .reading import RANK, read
from .view import LLMCall, merged

CLOCK_SLACK = 0.005
"""Seconds by which a span may stand out of the one that contains it: they are measured by different clocks."""


def llm_calls(spans: Sequence[Span]) -> list[LLMCall]:
    """The calls to models that the spans of an attempt tell of, in the order of the spans."""
    asked_for = agentops.tool_calls(spans)
    calls = [agentops.completed(call, asked_for) for span in spans if (call := read(span))]
    groups = _Groups(len(calls))
    _join_by_response_id(calls, groups)
    _join_nested(_Tree(spans, calls), groups)
    _join_beside(calls, groups)
    _join_what_was_sent_again(calls, groups)
    parents = {span.span_id: span.parent_id for span in spans}
    return continued([_one([calls[index] for index in group], parents) for group in groups])


class _Groups:
    """Which readings are of the same call."""

    def __init__(self, size: int) -> None:
        self._leader = list(range(size))

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.of(one), self.of(other)))
        self._leader[second] = first

    def of(self, index: int) -> int:
        while self._leader[index] != index:
            index = self._leader[index]
        return index

    def __iter__(self) -> Iterator[list[int]]:
        members: dict[int, list[int]] = {}
        for index in range(len(self._leader)):
            members.setdefault(self.of(index), []).append(index)
        return iter(members.values())


def _join_by_response_id(calls: list[LLMCall], groups: _Groups) -> None:
    by_id: dict[str, list[int]] = {}
    for index, call in enumerate(calls):
        if call.response_id is None:
            continue
        alike = by_id.setdefault(call.response_id, [])
        same = next((other for other in alike if not _differ(calls[other], call)), None)
        if same is not None:
            groups.join(same, index)
        alike.append(index)


def _differ(one: LLMCall, other: LLMCall) -> bool:
    """Some servers give every answer the same id; what was recorded on the wire is exact enough to tell."""
    both_exact = one.dialect == other.dialect == "wire"
    return both_exact and (one.messages != other.messages or one.output != other.output)


class _Tree:
    """The calls, and which of them is within which."""

    def __init__(self, spans: Sequence[Span], calls: list[LLMCall]) -> None:
        self.calls = calls
        self._parents = {span.span_id: span.parent_id for span in spans}
        self._call_at = {call.span_ids[0]: index for index, call in enumerate(calls)}

    def within(self) -> dict[int, list[int]]:
        """For each call, those directly inside it."""
        inside: dict[int, list[int]] = {}
        for index, call in enumerate(self.calls):
            outer = self._around(call)
            if outer is not None and _contains(self.calls[outer], call):
                inside.setdefault(outer, []).append(index)
        return inside

    def _around(self, call: LLMCall) -> int | None:
        passed = set(call.span_ids)  # spans from elsewhere may name each other as parents
        parent = call.parent_id
        while parent is not None and parent not in passed:
            if parent in self._call_at:
                return self._call_at[parent]
            passed.add(parent)
            parent = self._parents.get(parent)
        return None


def _contains(outer: LLMCall, inner: LLMCall) -> bool:
    times = (outer.start_time, inner.start_time, inner.end_time, outer.end_time)
    if None in times:
        return True
    began, begun, ended, over = (time or 0.0 for time in times)
    return began - CLOCK_SLACK <= begun and ended <= over + CLOCK_SLACK


def _join_nested(tree: _Tree, groups: _Groups) -> None:
    for outer, inside in tree.within().items():
        fitting = [index for index in inside if _may_be_one(tree.calls[outer], tree.calls[index])]
        answered = [index for index in fitting if not tree.calls[index].error]
        # A framework that asked several times within one span has taken the last answer.
        for index in [*(index for index in fitting if tree.calls[index].error), *answered[-1:]]:
            groups.join(outer, index)


def _may_be_one(outer: LLMCall, inner: LLMCall) -> bool:
    known = outer.response_id is not None and inner.response_id is not None
    return outer.operation == inner.operation and (not known or outer.response_id == inner.response_id)


def _join_beside(calls: list[LLMCall], groups: _Groups) -> None:
    """What went over the wire with the shortest call around it that is known from elsewhere, under the same parent."""
    alone = [group[0] for group in groups if len(group) == 1]
    elsewhere = [index for index in alone if calls[index].dialect != "wire" and _length(calls[index]) is not None]
    for index in (index for index in alone if calls[index].dialect == "wire" and calls[index].parent_id):
        inner = calls[index]
        around = [
            other
            for other in elsewhere
            if calls[other].parent_id == inner.parent_id
            and _contains(calls[other], inner)
            and _may_be_one(calls[other], inner)
            and not _ask_different_things(calls[other], inner)
        ]
        if around:
            outer = min(around, key=lambda other: _length(calls[other]) or 0.0)
            elsewhere.remove(outer)
            groups.join(outer, index)


def _ask_different_things(one: LLMCall, other: LLMCall) -> bool:
    asked = [call.messages[-1].get("content") for call in (one, other) if call.messages]
    return len(asked) == 2 and all(isinstance(text, str) for text in asked) and asked[0] != asked[1]


def _length(call: LLMCall) -> float | None:
    return None if call.start_time is None or call.end_time is None else call.end_time - call.start_time


def _join_what_was_sent_again(calls: list[LLMCall], groups: _Groups) -> None:
    """A failed try with the try after it; a streamed call's span with the log of what came of it."""
    waiting: dict[tuple[str | None, str, str], int] = {}
    for index, call in enumerate(calls):
        asked = (call.parent_id, call.dialect, str(call.messages))
        before = waiting.pop(asked, None)
        if before is not None and (call.resent if calls[before].error else _is_afterword(call)):
            groups.join(before, index)
        if not call.answered:
            waiting[asked] = index


def _is_afterword(call: LLMCall) -> bool:
    return call.start_time is not None and call.start_time == call.end_time


def _one(readings: list[LLMCall], parents: dict[str, str | None]) -> LLMCall:
    if len(readings) == 1:
        return readings[0]
    best_first = sorted(readings, key=lambda call: (bool(call.error), not call.answered, RANK[call.dialect]))
    # Of a try that failed only its span is kept: what it was told is not what the answer is about.
    told = [call for call in best_first if not call.error] or best_first
    tries = [call for call in best_first if call not in told]
    outermost = _outermost(readings, parents)
    return replace(
        merged(told),
        span_ids=[span_id for call in (*told, *tries) for span_id in call.span_ids],
        parent_id=outermost.parent_id,
        trace_id=outermost.trace_id,
        sequence_id=min(call.sequence_id for call in readings),
        start_time=min((call.start_time for call in readings if call.start_time is not None), default=None),
        end_time=max((call.end_time for call in readings if call.end_time is not None), default=None),
    )


def _outermost(readings: list[LLMCall], parents: dict[str, str | None]) -> LLMCall:
    mine = {span_id for reading in readings for span_id in reading.span_ids}
    outer = [reading for reading in readings if not mine & set(_ancestors(reading.parent_id, parents))]
    # The same call seen by the proxy has no parent in the agent's trace.
    return next((reading for reading in outer if reading.parent_id in parents), (outer or readings)[0])


def _ancestors(span_id: str | None, parents: dict[str, str | None]) -> Iterator[str]:
    passed: set[str] = set()
    while span_id is not None and span_id not in passed:
        passed.add(span_id)
        yield span_id
        span_id = parents.get(span_id)
