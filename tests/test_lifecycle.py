"""Lifecycle rules: every pair of statuses, compared with tables written by hand from the published rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import given, strategies as st

from agentlightning.errors import Conflict, FinalStatus, StaleAttempt
from agentlightning.store.lifecycle import (
    ATTEMPT_TRANSITIONS,
    DEFAULT_UNRESPONSIVE_SECONDS,
    ENDED,
    FINAL,
    LIVE,
    QUEUED,
    ROLLOUT_TRANSITIONS,
    AttemptState,
    Deadlines,
    Transition,
    claim,
    deadlines,
    diagrams,
    expired,
    heartbeat,
    report,
    set_rollout_status,
    timeout_reason,
)
from agentlightning.types import AttemptStatus, RolloutConfig, RolloutStatus

ROLLOUT: tuple[RolloutStatus, ...] = get_args(RolloutStatus)
ATTEMPT: tuple[AttemptStatus, ...] = get_args(AttemptStatus)
FAILURES: tuple[AttemptStatus, ...] = ("failed", "timeout", "unresponsive")


def table(text: str) -> dict[tuple[Any, ...], str]:
    """Parse a table in text form: the words to the left of the bar name the row, the first line names the columns."""
    head, *lines = [line for line in text.strip().splitlines() if line.strip()]
    columns = head.partition("|")[2].split()
    cells: dict[tuple[Any, ...], str] = {}
    for line in lines:
        row, _, values = line.partition("|")
        for column, value in zip(columns, values.split(), strict=True):
            cells[(*row.split(), column)] = value
    return cells


# The rollout's next status when its latest attempt, in the first status, is reported to be in the second.
# "again": requeuing if a retry is due, else failed. "no": an invalid transition of the attempt.
# "final": the attempt or rollout has ended. Otherwise the attempt gets the reported status.
REPORTED = table(
    """
    attempt      report       | queuing   preparing running   requeuing succeeded failed cancelled
    preparing    preparing    | queuing   preparing running   requeuing final     final  final
    preparing    running      | running   running   running   running   final     final  final
    preparing    succeeded    | succeeded succeeded succeeded succeeded final     final  final
    preparing    failed       | queuing   again     again     requeuing final     final  final
    preparing    timeout      | queuing   again     again     requeuing final     final  final
    preparing    unresponsive | queuing   again     again     requeuing final     final  final
    running      preparing    | no        no        no        no        final     final  final
    running      running      | queuing   preparing running   requeuing final     final  final
    running      succeeded    | succeeded succeeded succeeded succeeded final     final  final
    running      failed       | queuing   again     again     requeuing final     final  final
    running      timeout      | queuing   again     again     requeuing final     final  final
    running      unresponsive | queuing   again     again     requeuing final     final  final
    unresponsive preparing    | no        no        no        no        final     final  final
    unresponsive running      | running   running   running   running   final     final  final
    unresponsive succeeded    | succeeded succeeded succeeded succeeded final     final  final
    unresponsive failed       | queuing   again     again     requeuing final     final  final
    unresponsive timeout      | queuing   again     again     requeuing final     final  final
    unresponsive unresponsive | queuing   preparing running   requeuing final     final  final
    succeeded    preparing    | final     final     final     final     final     final  final
    succeeded    running      | final     final     final     final     final     final  final
    succeeded    succeeded    | final     final     final     final     final     final  final
    succeeded    failed       | final     final     final     final     final     final  final
    succeeded    timeout      | final     final     final     final     final     final  final
    succeeded    unresponsive | final     final     final     final     final     final  final
    failed       preparing    | final     final     final     final     final     final  final
    failed       running      | final     final     final     final     final     final  final
    failed       succeeded    | final     final     final     final     final     final  final
    failed       failed       | final     final     final     final     final     final  final
    failed       timeout      | final     final     final     final     final     final  final
    failed       unresponsive | final     final     final     final     final     final  final
    timeout      preparing    | final     final     final     final     final     final  final
    timeout      running      | final     final     final     final     final     final  final
    timeout      succeeded    | final     final     final     final     final     final  final
    timeout      failed       | final     final     final     final     final     final  final
    timeout      timeout      | final     final     final     final     final     final  final
    timeout      unresponsive | final     final     final     final     final     final  final
    """
)

# The next status of both at a heartbeat of the rollout's latest attempt; "late": it is ignored.
HEARTBEAT = table(
    """
    attempt      | queuing preparing running requeuing succeeded failed cancelled
    preparing    | running running   running running   late      late   late
    running      | running running   running running   late      late   late
    unresponsive | running late      late    running   late      late   late
    succeeded    | late    late      late    late      late      late   late
    failed       | late    late      late    late      late      late   late
    timeout      | late    late      late    late      late      late   late
    """
)

# The next statuses when a client sets a rollout's status: rollout/attempt. "-": the attempt keeps its status;
# "=": it gets the same one. "same": nothing changes. "final": the rollout has ended. "no": only a worker can do that.
SET_WHILE_LIVE = table(
    """
    rollout   | queuing        preparing running         requeuing        succeeded   failed   cancelled
    queuing   | same           no        running/running same             succeeded/= failed/= cancelled/failed
    preparing | queuing/failed same      running/running requeuing/failed succeeded/= failed/= cancelled/failed
    running   | queuing/failed no        same            requeuing/failed succeeded/= failed/= cancelled/failed
    requeuing | same           no        running/running same             succeeded/= failed/= cancelled/failed
    succeeded | final          final     final           final            same        final    final
    failed    | final          final     final           final            final       same     final
    cancelled | final          final     final           final            final       final    same
    """
)
SET_OTHERWISE = table(
    """
    rollout   | queuing   preparing running requeuing   succeeded   failed   cancelled
    queuing   | same      no        no      same        succeeded/- failed/- cancelled/-
    preparing | queuing/- same      no      requeuing/- succeeded/- failed/- cancelled/-
    running   | queuing/- no        same    requeuing/- succeeded/- failed/- cancelled/-
    requeuing | same      no        no      same        succeeded/- failed/- cancelled/-
    succeeded | final     final     final   final       same        final    final
    failed    | final     final     final   final       final       same     final
    cancelled | final     final     final   final       final       final    same
    """
)


def state(
    rollout: RolloutStatus,
    attempt: AttemptStatus,
    *,
    latest: bool = True,
    sequence_id: int = 1,
    config: RolloutConfig | None = None,
) -> AttemptState:
    return AttemptState("ro-1", rollout, "at-1", attempt, latest, sequence_id, config or RolloutConfig())


def retrying(*conditions: AttemptStatus, max_attempts: int = 2) -> RolloutConfig:
    return RolloutConfig(max_attempts=max_attempts, retry_condition=list(conditions))


# Reports


@pytest.mark.parametrize("again", ["requeuing", "failed"])
def test_report_follows_the_table(again: RolloutStatus) -> None:
    config = retrying(*FAILURES, max_attempts=2 if again == "requeuing" else 1)

    for (attempt, reported, rollout), expected in REPORTED.items():
        after = outcome(report, state(rollout, attempt, config=config), reported)
        match expected:
            case "final":
                assert after is FinalStatus, (attempt, reported, rollout)
            case "no":
                assert after is Conflict, (attempt, reported, rollout)
            case _:
                status = again if expected == "again" else expected
                assert after == (status, reported), (attempt, reported, rollout)


def outcome(rule: Callable[..., Transition], *args: Any) -> Transition | type[Exception]:
    """Return the transition, or the class of the error."""
    try:
        return rule(*args)
    except Conflict as error:
        return type(error)


def test_invalid_transition_names_both_statuses() -> None:
    with pytest.raises(Conflict, match="at-1 of ro-1 is running and cannot become preparing"):
        report(state("running", "running"), "preparing")


def test_report_on_a_superseded_attempt_is_stale() -> None:
    with pytest.raises(StaleAttempt, match="at-1 of ro-1 was superseded"):
        report(state("running", "running", latest=False), "succeeded")
    for attempt, reported, rollout in product(ATTEMPT, ATTEMPT, ROLLOUT):
        assert outcome(report, state(rollout, attempt, latest=False), reported) is StaleAttempt


@pytest.mark.parametrize("reported", FAILURES)
@pytest.mark.parametrize(
    ("conditions", "sequence_id", "max_attempts", "again"),
    [
        ((), 1, 1, False),
        ((), 1, 9, False),
        (FAILURES, 1, 1, False),
        (FAILURES, 1, 2, True),
        (FAILURES, 2, 2, False),
        (FAILURES, 2, 3, True),
        (FAILURES, 3, 3, False),
        (FAILURES, 4, 3, False),
    ],
)
def test_retry_requires_attempts_left_and_a_matching_condition(
    reported: AttemptStatus, conditions: tuple[AttemptStatus, ...], sequence_id: int, max_attempts: int, again: bool
) -> None:
    now = state("running", "running", sequence_id=sequence_id, config=retrying(*conditions, max_attempts=max_attempts))

    assert report(now, reported).rollout == ("requeuing" if again else "failed")


def test_only_failures_in_the_condition_are_retried() -> None:
    for reported, condition in product(FAILURES, FAILURES):
        after = report(state("running", "running", config=retrying(condition)), reported)
        assert after.rollout == ("requeuing" if reported == condition else "failed"), (reported, condition)


def test_success_is_never_retried() -> None:
    now = state("running", "running", config=retrying(*ATTEMPT, max_attempts=9))

    assert report(now, "succeeded") == Transition("succeeded", "succeeded")


# Heartbeats


def test_heartbeat_follows_the_table() -> None:
    for (attempt, rollout), expected in HEARTBEAT.items():
        after = None if expected == "late" else (expected, expected)
        assert heartbeat(state(rollout, attempt)) == after, (attempt, rollout)


def test_heartbeat_of_a_superseded_attempt_is_ignored() -> None:
    for attempt, rollout in product(ATTEMPT, ROLLOUT):
        assert heartbeat(state(rollout, attempt, latest=False)) is None


# Statuses set by clients


@pytest.mark.parametrize("attempt", [*ATTEMPT, None])
def test_set_rollout_status_follows_the_table(attempt: AttemptStatus | None) -> None:
    for (rollout, to), expected in (SET_WHILE_LIVE if attempt in LIVE else SET_OTHERWISE).items():
        after = outcome(set_rollout_status, "ro-1", rollout, attempt, to)
        match expected:
            case "same":
                assert after == (rollout, attempt), (rollout, to)
            case "final":
                assert after is FinalStatus, (rollout, to)
            case "no":
                assert after is Conflict, (rollout, to)
            case _:
                rollout_after, attempt_after = expected.split("/")
                named = {"-": attempt, "=": rollout_after}.get(attempt_after, attempt_after)
                assert after == (rollout_after, named), (rollout, to)


def test_status_that_requires_a_worker_is_rejected_with_the_reason() -> None:
    with pytest.raises(Conflict, match="ro-1 is queuing; it becomes running when a worker claims it"):
        set_rollout_status("ro-1", "queuing", None, "running")
    with pytest.raises(FinalStatus, match="ro-1 has already failed"):
        set_rollout_status("ro-1", "failed", None, "running")


def test_claim_sets_both_preparing() -> None:
    for rollout in ("queuing", "requeuing", "preparing", "running"):
        assert claim(rollout) == Transition("preparing", "preparing")


@pytest.mark.parametrize(
    ("rollout", "said"),
    [("succeeded", "already succeeded"), ("failed", "already failed"), ("cancelled", "already been cancelled")],
)
def test_error_names_the_rollout_and_its_status(rollout: RolloutStatus, said: str) -> None:
    with pytest.raises(FinalStatus, match=f"^rollout ro-1 has {said}$"):
        report(state(rollout, "running"), "succeeded")


def test_error_names_the_attempt_if_only_that_has_ended() -> None:
    with pytest.raises(FinalStatus, match=r"^attempt at-1 of ro-1 has already timed out$"):
        report(state("requeuing", "timeout"), "succeeded")


# Deadlines


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (RolloutConfig(), Deadlines(timeout=None, silence=250 + DEFAULT_UNRESPONSIVE_SECONDS)),
        (RolloutConfig(unresponsive_seconds=5), Deadlines(timeout=None, silence=255)),
        (RolloutConfig(timeout_seconds=60), Deadlines(timeout=160, silence=250 + DEFAULT_UNRESPONSIVE_SECONDS)),
        (RolloutConfig(timeout_seconds=0.5, unresponsive_seconds=0.25), Deadlines(timeout=100.5, silence=250.25)),
    ],
)
def test_timeout_counts_from_start_and_silence_from_last_heartbeat(config: RolloutConfig, expected: Deadlines) -> None:
    assert deadlines(config, started=100.0, last_heartbeat=250.0) == expected


def test_every_attempt_has_a_deadline() -> None:
    due = deadlines(RolloutConfig(), started=100.0, last_heartbeat=100.0)

    assert due.next == 100.0 + DEFAULT_UNRESPONSIVE_SECONDS
    assert 0 < DEFAULT_UNRESPONSIVE_SECONDS < 60


@pytest.mark.parametrize(
    ("due", "first"), [(Deadlines(10.0, 20.0), 10.0), (Deadlines(20.0, 10.0), 10.0), (Deadlines(None, 7.0), 7.0)]
)
def test_next_deadline_is_the_earlier_one(due: Deadlines, first: float) -> None:
    assert due.next == first


@pytest.mark.parametrize(
    ("due", "now", "expected"),
    [
        (Deadlines(10.0, 20.0), 9.9, None),
        (Deadlines(10.0, 20.0), 10.0, None),  # "now - start_time > timeout_seconds"
        (Deadlines(10.0, 20.0), 10.1, "timeout"),
        (Deadlines(10.0, 20.0), 20.1, "timeout"),
        (Deadlines(20.0, 10.0), 10.0, None),
        (Deadlines(20.0, 10.0), 10.1, "unresponsive"),
        (Deadlines(20.0, 10.0), 20.1, "timeout"),
        (Deadlines(None, 10.0), 9.9, None),
        (Deadlines(None, 10.0), 1e9, "unresponsive"),
    ],
)
def test_deadline_expires_after_its_time(due: Deadlines, now: float, expected: str | None) -> None:
    assert expired(due, now) == expected


def test_timeout_reason_names_the_exceeded_setting() -> None:
    config = RolloutConfig(timeout_seconds=1.5, unresponsive_seconds=4)

    assert timeout_reason("timeout", config) == "took longer than timeout_seconds=1.5"
    assert timeout_reason("unresponsive", config) == "no heartbeat and no span for 4 seconds"
    assert timeout_reason("unresponsive", RolloutConfig()) == "no heartbeat and no span for 30 seconds"


# The tables


def test_every_status_is_in_exactly_one_group() -> None:
    assert set(ROLLOUT) == QUEUED | FINAL | {"preparing", "running"}
    assert not QUEUED & FINAL
    assert set(ATTEMPT) == LIVE | ENDED | {"unresponsive"}
    assert not LIVE & ENDED
    assert set(ROLLOUT_TRANSITIONS) == set(ROLLOUT)
    assert set(ATTEMPT_TRANSITIONS) == set(ATTEMPT)


def test_final_statuses_have_no_transitions() -> None:
    assert [status for status in ROLLOUT if not ROLLOUT_TRANSITIONS[status]] == ["failed", "succeeded", "cancelled"]
    assert [status for status in ATTEMPT if not ATTEMPT_TRANSITIONS[status]] == ["failed", "succeeded", "timeout"]


@pytest.mark.parametrize(("name", "first", "final", "follows"), [
    ("rollout", "queuing", FINAL, ROLLOUT_TRANSITIONS),
    ("attempt", "preparing", ENDED, ATTEMPT_TRANSITIONS),
])  # fmt: skip
def test_diagram_shows_exactly_the_transitions(name: str, first: str, final: set, follows: dict) -> None:
    kind, *lines = diagrams()[name].splitlines()
    drawn = [re.fullmatch(r" +(\S+) --> (\S+)", line).groups() for line in lines]  # type: ignore[union-attr]

    assert kind == "stateDiagram-v2"
    assert drawn[0] == ("[*]", first)
    assert sorted(drawn[1:]) == sorted(
        [(status, after) for status, afters in follows.items() for after in afters]
        + [(status, "[*]") for status in final]
    )


# Sequences of calls


class Life:
    """One rollout and its attempts, changed only by the rules."""

    def __init__(self, config: RolloutConfig) -> None:
        self.config = config
        self.rollout: RolloutStatus = "queuing"
        self.attempts: list[AttemptStatus] = []

    def do(self, step: tuple) -> None:
        match step:
            case ("claim",):
                if self.rollout in QUEUED:
                    self.attempts.append("preparing")
                    self.become(claim(self.rollout))
            case ("report", back, status):
                self.apply(back, lambda now: report(now, status))
            case ("heartbeat", back):
                self.apply(back, heartbeat)
            case ("set", status):
                latest = self.attempts[-1] if self.attempts else None
                self.become(set_rollout_status("ro-1", self.rollout, latest, status))

    def apply(self, back: int, rule) -> None:
        if back >= len(self.attempts):
            return
        at = len(self.attempts) - 1 - back
        now = state(self.rollout, self.attempts[at], latest=back == 0, sequence_id=at + 1, config=self.config)
        if after := rule(now):
            assert back == 0, "a superseded attempt changed the rollout"
            self.become(after)

    def become(self, after: Transition) -> None:
        assert after.rollout == self.rollout or after.rollout in ROLLOUT_TRANSITIONS[self.rollout], (
            self.rollout,
            after,
        )
        self.rollout = after.rollout
        if after.attempt is not None:
            before = self.attempts[-1]
            assert after.attempt == before or after.attempt in ATTEMPT_TRANSITIONS[before], (before, after)
            self.attempts[-1] = after.attempt


steps = st.one_of(
    st.just(("claim",)),
    st.tuples(st.just("report"), st.integers(0, 1), st.sampled_from(ATTEMPT)),
    st.tuples(st.just("heartbeat"), st.integers(0, 1)),
    st.tuples(st.just("set"), st.sampled_from(ROLLOUT)),
)
configs = st.builds(
    RolloutConfig, max_attempts=st.integers(1, 4), retry_condition=st.lists(st.sampled_from(ATTEMPT), unique=True)
)


@given(configs, st.lists(steps, max_size=30))
def test_no_sequence_of_calls_leaves_a_final_status(config: RolloutConfig, calls: list[tuple]) -> None:
    life = Life(config)

    for call in calls:
        before, attempts = life.rollout, list(life.attempts)
        try:
            life.do(call)
        except Conflict:
            assert (life.rollout, life.attempts) == (before, attempts)
        if before in ("succeeded", "failed", "cancelled"):
            assert (life.rollout, life.attempts) == (before, attempts)


@given(configs, st.lists(steps, max_size=30))
def test_only_the_latest_attempt_of_an_active_rollout_is_live(config: RolloutConfig, calls: list[tuple]) -> None:
    life = Life(config)

    for call in calls:
        try:
            life.do(call)
        except Conflict:
            continue
        assert all(attempt not in LIVE for attempt in life.attempts[:-1])
        live = bool(life.attempts) and life.attempts[-1] in LIVE
        assert live == (life.rollout in ("preparing", "running"))


@given(configs, st.lists(steps, max_size=30))
def test_retries_never_exceed_max_attempts(config: RolloutConfig, calls: list[tuple]) -> None:
    life = Life(config)

    for call in calls:
        if call[0] == "set":
            continue
        try:
            life.do(call)
        except Conflict:
            continue

    assert len(life.attempts) <= config.max_attempts
