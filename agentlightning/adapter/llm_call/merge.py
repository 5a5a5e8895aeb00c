"""Merge the spans of a trace into LLM calls. Each call appears once, even if several spans recorded it.

Two spans are considered to record the same call in any of these cases:

- They have the same response id, and their contents do not contradict each other.
- One is an ancestor of the other and encloses it in time, and they do not have different operations or response ids.
- They have the same parent span. One is from the wire tap. The other encloses it in time and is from a library whose
  spans do not become the parents of the spans inside them.
- They record tries of the same request, which the SDK repeated after a failure.
- One is the span of a streamed call, and the other is the log record of the call's response.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from ... import semconv
from ...types import Span
from . import indexed, langfuse, logfire, openinference, opentelemetry, wire
from .attributes import from_json
from .view import Json, LLMCall, combine

_READERS: dict[str, Callable[[Span], LLMCall | None]] = {
    "wire": wire.read,
    "openinference": openinference.read,
    "opentelemetry": opentelemetry.read,
    "indexed": indexed.read,
    "logfire": logfire.read,
    "langfuse": langfuse.read,
}
"""Readers by dialect, from the most to the least complete dialect. To support another dialect, add its reader here."""

_RANK = {dialect: rank for rank, dialect in enumerate(_READERS)}

CLOCK_TOLERANCE = 0.005
"""Time in seconds by which a nested span may start before or end after the span that encloses it.

The two spans may come from processes whose clocks differ.
"""

Parents = Mapping[str, str | None]
"""The parent span's id for each span id."""


def llm_calls(spans: Sequence[Span]) -> list[LLMCall]:
    """Return the LLM calls that the spans of an attempt record, in the order of their first spans."""
    tool_calls = indexed.tool_calls(spans)
    calls = [indexed.add_tool_calls(call, tool_calls) for span in spans if (call := _read(span))]
    parents = {span.span_id: span.parent_id for span in spans}
    groups = _Groups([index] for index in range(len(calls)))
    _join_by_response_id(calls, groups)
    _join_nested(calls, parents, groups)
    _join_siblings(calls, groups)
    _join_retries(calls, groups)
    return _with_history([_merge([calls[index] for index in group], parents) for group in groups.distinct()])


def ancestors(span_id: str | None, parents: Parents) -> Iterator[str]:
    """Yield a span id, its parent's id, and so on. Stop at a cycle: spans from other programs may contain cycles."""
    visited: set[str] = set()
    while span_id is not None and span_id not in visited:
        visited.add(span_id)
        yield span_id
        span_id = parents.get(span_id)


def _read(span: Span) -> LLMCall | None:
    """Parse the span as an LLM call. Return None if it is not one."""
    views: list[LLMCall] = []
    for reader in _READERS.values():
        view = reader(span)
        if view is None:
            continue
        views.append(view)
        if view.messages and view.output:  # the remaining formats are less complete and cannot add anything
            break
    return _with_span(combine(views), span) if views else None


def _with_span(call: LLMCall, span: Span) -> LLMCall:
    attributes, failed = span.attributes, span.status.status_code == "ERROR"
    version = attributes.get(semconv.POLICY_VERSION)
    return replace(
        call,
        error=(span.status.description or "the call failed") if failed else None,
        resent=int(from_json(attributes.get("http.request.resend_count")) or 0),
        policy_version=None if version is None else str(version),
        span_ids=[span.span_id],
        names=[span.name],
        trace_id=span.trace_id,
        parent_id=span.parent_id,
        sequence_id=span.sequence_id,
        start_time=span.start_time,
        end_time=span.end_time,
    )


class _Groups(list[list[int]]):
    """Sets of calls to merge. The item at a call's index is the call's group: a list of call indexes, smallest first.

    All calls in a group share the same list object.
    """

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self[one], self[other]))
        if first is not second:
            first += second
            for index in second:
                self[index] = first

    def distinct(self) -> list[list[int]]:
        return [sorted(group) for index, group in enumerate(self) if group[0] == index]


def _join_by_response_id(calls: list[LLMCall], groups: _Groups) -> None:
    by_id: dict[str, list[int]] = {}
    for index, call in enumerate(calls):
        if call.response_id is None:
            continue
        candidates = by_id.setdefault(call.response_id, [])
        same = next((other for other in candidates if not _contradict(calls[other], call)), None)
        if same is not None:
            groups.join(same, index)
        candidates.append(index)


def _contradict(one: LLMCall, other: LLMCall) -> bool:
    # Some servers use one response id for all calls. Only raw bodies are exact enough to tell such calls apart.
    both_exact = one.dialect == other.dialect == "wire"
    return both_exact and (one.messages != other.messages or one.output != other.output)


def _join_nested(calls: list[LLMCall], parents: Parents, groups: _Groups) -> None:
    for outer, nested in _nested(calls, parents).items():
        matching = [index for index in nested if _may_be_same(calls[outer], calls[index])]
        answered = [index for index in matching if not calls[index].error]
        # A framework may send several requests within one span. Of those that were answered, join only the last one,
        # because the framework uses its response.
        for index in [*(index for index in matching if calls[index].error), *answered[-1:]]:
            groups.join(outer, index)


def _nested(calls: list[LLMCall], parents: Parents) -> dict[int, list[int]]:
    """Return a dict from the index of each outer call to the indexes of the calls directly inside it."""
    index_of = {call.span_ids[0]: index for index, call in enumerate(calls)}
    nested: dict[int, list[int]] = {}
    for index, call in enumerate(calls):
        around = (index_of[span_id] for span_id in ancestors(call.parent_id, parents) if span_id in index_of)
        outer = next(around, index)
        if outer != index and _contains(calls[outer], call):
            nested.setdefault(outer, []).append(index)
    return nested


def _contains(outer: LLMCall, inner: LLMCall) -> bool:
    if outer.start_time is None or outer.end_time is None or inner.start_time is None or inner.end_time is None:
        return True
    starts_after = outer.start_time - CLOCK_TOLERANCE <= inner.start_time
    return starts_after and inner.end_time <= outer.end_time + CLOCK_TOLERANCE


def _may_be_same(outer: LLMCall, inner: LLMCall) -> bool:
    known = outer.response_id is not None and inner.response_id is not None
    return outer.operation == inner.operation and (not known or outer.response_id == inner.response_id)


def _join_siblings(calls: list[LLMCall], groups: _Groups) -> None:
    """Join each call from the wire tap with the shortest sibling from another library that encloses it in time."""
    single = [index for index, group in enumerate(groups) if len(group) == 1]
    foreign = [index for index in single if calls[index].dialect != "wire" and _duration(calls[index]) is not None]
    for index in (index for index in single if calls[index].dialect == "wire" and calls[index].parent_id):
        inner = calls[index]
        candidates = [
            other
            for other in foreign
            if calls[other].parent_id == inner.parent_id
            and _contains(calls[other], inner)
            and _may_be_same(calls[other], inner)
            and not _differ_in_last_message(calls[other], inner)
        ]
        if candidates:
            outer = min(candidates, key=lambda other: _duration(calls[other]) or 0.0)
            foreign.remove(outer)
            groups.join(outer, index)


def _differ_in_last_message(one: LLMCall, other: LLMCall) -> bool:
    contents = [call.messages[-1].get("content") for call in (one, other) if call.messages]
    return len(contents) == 2 and all(isinstance(text, str) for text in contents) and contents[0] != contents[1]


def _duration(call: LLMCall) -> float | None:
    return None if call.start_time is None or call.end_time is None else call.end_time - call.start_time


def _join_retries(calls: list[LLMCall], groups: _Groups) -> None:
    """Join each failed try with the next try, and the span of a streamed call with the log record of its response."""
    unanswered: dict[tuple[str | None, str, str], int] = {}
    for index, call in enumerate(calls):
        request = (call.parent_id, call.dialect, str(call.messages))
        previous = unanswered.pop(request, None)
        if previous is not None and (call.resent if calls[previous].error else _duration(call) == 0):
            groups.join(previous, index)
        if not call.answered:
            unanswered[request] = index


def _merge(views: list[LLMCall], parents: Parents) -> LLMCall:
    if len(views) == 1:
        return views[0]
    best_first = sorted(views, key=lambda call: (bool(call.error), not call.answered, _RANK[call.dialect]))
    # Keep only the span ids of failed tries. Their requests and errors do not belong to the successful response.
    successful = [call for call in best_first if not call.error] or best_first
    failed = [call for call in best_first if call not in successful]
    outermost = _outermost(views, parents)
    return replace(
        combine(successful),
        span_ids=[span_id for call in (*successful, *failed) for span_id in call.span_ids],
        parent_id=outermost.parent_id,
        trace_id=outermost.trace_id,
        sequence_id=min(call.sequence_id for call in views),
        start_time=min((call.start_time for call in views if call.start_time is not None), default=None),
        end_time=max((call.end_time for call in views if call.end_time is not None), default=None),
    )


def _outermost(views: list[LLMCall], parents: Parents) -> LLMCall:
    own = {span_id for view in views for span_id in view.span_ids}
    outer = [view for view in views if not own.intersection(ancestors(view.parent_id, parents))]
    # Prefer a span with a parent in the agent's trace. The proxy's span for the same call does not have one.
    return next((view for view in outer if view.parent_id in parents), (outer or views)[0])


# Calls that refer to an earlier response by its id instead of repeating the conversation


def _with_history(calls: Sequence[LLMCall]) -> list[LLMCall]:
    """Prepend the earlier conversation to each call that refers to the response of an earlier call by its id."""
    by_id: dict[str, LLMCall] = {}
    complete: list[LLMCall] = []
    for call in calls:
        previous = by_id.get(str(call.parameters.get("previous_response_id")))
        if previous is not None:
            call = replace(call, messages=_continued(previous, call.messages))
        complete.append(call)
        if call.response_id:
            by_id[call.response_id] = call
    return complete


def _continued(previous: LLMCall, messages: list[Json]) -> list[Json]:
    # Instructions apply only to the call that contains them. The later call's instructions replace the earlier ones.
    instructions = messages[:1] if _is_system(messages) else []
    kept = previous.messages[1:] if instructions and _is_system(previous.messages) else previous.messages
    return [*instructions, *kept, *previous.output, *messages[len(instructions) :]]


def _is_system(messages: list[Json]) -> bool:
    return bool(messages) and messages[0].get("role") == "system"
