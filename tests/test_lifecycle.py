"""What status follows what: every pair of statuses, against tables written by hand from the published rules."""

from __future__ import annotations

import re
from itertools import product
from typing import get_args

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
LAPSES: tuple[AttemptStatus, ...] = ("failed", "timeout", "unresponsive")


def table(text: str) -> dict[tuple[str, ...], str]:
    """A drawn table as a dict: the words left of the bar are the row, the first line names the columns."""
    head, *lines = [line for line in text.strip().splitlines() if line.strip()]
    columns = head.partition("|")[2].split()
    cells: dict[tuple[str, ...], str] = {}
    for line in lines:
        row, _, values = line.partition("|")
        for column, value in zip(columns, values.split(), strict=True):
            cells[(*row.split(), column)] = value
    return cells


# What the rollout becomes when its latest attempt, in the first status, is reported to be in the second.
# "again": requeuing where another attempt is due, else failed. "no": the attempt cannot become that.
# "final": the attempt has ended. Where it is allowed, the attempt becomes what is reported.
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

# What both become at a sign of life of the rollout's latest attempt; "late": it means nothing any more.
ALIVE = table(
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

# What follows when a rollout's status is set by hand: rollout/attempt. "-": the attempt stays what it was;
# "=": it becomes the same. "same": nothing changes. "final": it has ended. "no": only a worker can bring that about.
BY_HAND_WHILE_LIVE = table(
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
BY_HAND_OTHERWISE = table(
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


def standing(
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
@pytest.mark.parametrize(("attempt", "reported", "rollout"), list(product(ATTEMPT, ATTEMPT, ROLLOUT)))
def test_a_report_of_the_latest_attempt_has_the_result_in_the_table(
    attempt: AttemptStatus, reported: AttemptStatus, rollout: RolloutStatus, again: RolloutStatus
) -> None:
    now = standing(rollout, attempt, config=retrying(*LAPSES, max_attempts=2 if again == "requeuing" else 1))

    match REPORTED[attempt, reported, rollout]:
        case "final":
            with pytest.raises(FinalStatus):
                report(now, reported)
        case "no":
            with pytest.raises(Conflict, match=f"at-1 of ro-1 is {attempt} and cannot become {reported}"):
                report(now, reported)
        case "again":
            assert report(now, reported) == Transition(again, reported)
        case after:
            assert report(now, reported) == (after, reported)


@pytest.mark.parametrize(("attempt", "reported", "rollout"), list(product(ATTEMPT, ATTEMPT, ROLLOUT)))
def test_a_report_of_a_superseded_attempt_is_stale_whatever_it_says(
    attempt: AttemptStatus, reported: AttemptStatus, rollout: RolloutStatus
) -> None:
    with pytest.raises(StaleAttempt, match="at-1 of ro-1 was superseded"):
        report(standing(rollout, attempt, latest=False), reported)


@pytest.mark.parametrize("reported", LAPSES)
@pytest.mark.parametrize(
    ("conditions", "sequence_id", "max_attempts", "again"),
    [
        ((), 1, 1, False),
        ((), 1, 9, False),
        (LAPSES, 1, 1, False),
        (LAPSES, 1, 2, True),
        (LAPSES, 2, 2, False),
        (LAPSES, 2, 3, True),
        (LAPSES, 3, 3, False),
        (LAPSES, 4, 3, False),
    ],
)
def test_another_attempt_is_due_only_while_attempts_last_and_the_condition_fits(
    reported: AttemptStatus, conditions: tuple[AttemptStatus, ...], sequence_id: int, max_attempts: int, again: bool
) -> None:
    now = standing(
        "running", "running", sequence_id=sequence_id, config=retrying(*conditions, max_attempts=max_attempts)
    )

    assert report(now, reported).rollout == ("requeuing" if again else "failed")


@pytest.mark.parametrize(("reported", "condition"), list(product(LAPSES, LAPSES)))
def test_only_the_named_way_to_fail_is_retried(reported: AttemptStatus, condition: AttemptStatus) -> None:
    now = standing("running", "running", config=retrying(condition))

    assert report(now, reported).rollout == ("requeuing" if reported == condition else "failed")


def test_a_success_is_never_retried() -> None:
    now = standing("running", "running", config=retrying(*ATTEMPT, max_attempts=9))

    assert report(now, "succeeded") == Transition("succeeded", "succeeded")


# Signs of life


@pytest.mark.parametrize(("attempt", "rollout"), list(product(ATTEMPT, ROLLOUT)))
def test_a_sign_of_life_has_the_result_in_the_table(attempt: AttemptStatus, rollout: RolloutStatus) -> None:
    expected = ALIVE[attempt, rollout]

    assert heartbeat(standing(rollout, attempt)) == (None if expected == "late" else (expected, expected))


@pytest.mark.parametrize(("attempt", "rollout"), list(product(ATTEMPT, ROLLOUT)))
def test_a_sign_of_life_of_a_superseded_attempt_means_nothing(attempt: AttemptStatus, rollout: RolloutStatus) -> None:
    assert heartbeat(standing(rollout, attempt, latest=False)) is None


# By hand


@pytest.mark.parametrize("attempt", [*ATTEMPT, None])
@pytest.mark.parametrize(("rollout", "to"), list(product(ROLLOUT, ROLLOUT)))
def test_setting_a_status_by_hand_has_the_result_in_the_table(
    rollout: RolloutStatus, to: RolloutStatus, attempt: AttemptStatus | None
) -> None:
    live = attempt in ("preparing", "running")

    match (BY_HAND_WHILE_LIVE if live else BY_HAND_OTHERWISE)[rollout, to]:
        case "same":
            assert set_rollout_status("ro-1", rollout, attempt, to) == (rollout, attempt)
        case "final":
            with pytest.raises(FinalStatus, match="ro-1 has already"):
                set_rollout_status("ro-1", rollout, attempt, to)
        case "no":
            with pytest.raises(Conflict, match=f"ro-1 is {rollout}; it becomes {to} when a worker takes it"):
                set_rollout_status("ro-1", rollout, attempt, to)
        case after:
            rollout_after, attempt_after = after.split("/")
            assert set_rollout_status("ro-1", rollout, attempt, to) == (
                rollout_after,
                {"-": attempt, "=": rollout_after}.get(attempt_after, attempt_after),
            )


def test_a_claim_makes_both_preparing() -> None:
    for rollout in ("queuing", "requeuing", "preparing", "running"):
        assert claim(rollout) == Transition("preparing", "preparing")


@pytest.mark.parametrize(
    ("rollout", "said"),
    [("succeeded", "already succeeded"), ("failed", "already failed"), ("cancelled", "already been cancelled")],
)
def test_a_refusal_names_the_thing_and_its_state(rollout: RolloutStatus, said: str) -> None:
    with pytest.raises(FinalStatus, match=f"^rollout ro-1 has {said}$"):
        report(standing(rollout, "running"), "succeeded")


def test_a_refusal_names_the_attempt_where_only_that_has_ended() -> None:
    with pytest.raises(FinalStatus, match=r"^attempt at-1 of ro-1 has already timed out$"):
        report(standing("requeuing", "timeout"), "succeeded")


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
def test_a_timeout_counts_from_the_start_and_silence_from_the_last_sign(
    config: RolloutConfig, expected: Deadlines
) -> None:
    assert deadlines(config, started=100.0, last_sign=250.0) == expected


def test_every_attempt_has_a_deadline() -> None:
    due = deadlines(RolloutConfig(), started=100.0, last_sign=100.0)

    assert due.next == 100.0 + DEFAULT_UNRESPONSIVE_SECONDS
    assert 0 < DEFAULT_UNRESPONSIVE_SECONDS < 60


@pytest.mark.parametrize(
    ("due", "first"), [(Deadlines(10.0, 20.0), 10.0), (Deadlines(20.0, 10.0), 10.0), (Deadlines(None, 7.0), 7.0)]
)
def test_the_next_deadline_is_the_one_that_comes_first(due: Deadlines, first: float) -> None:
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
def test_a_deadline_is_missed_once_it_has_passed(due: Deadlines, now: float, expected: str | None) -> None:
    assert expired(due, now) == expected


def test_the_reason_names_the_setting_that_was_exceeded() -> None:
    config = RolloutConfig(timeout_seconds=1.5, unresponsive_seconds=4)

    assert timeout_reason("timeout", config) == "took longer than timeout_seconds=1.5"
    assert timeout_reason("unresponsive", config) == "no heartbeat and no span for 4 seconds"
    assert timeout_reason("unresponsive", RolloutConfig()) == "no heartbeat and no span for 30 seconds"


# The tables themselves


def test_every_status_stands_in_exactly_one_group() -> None:
    assert set(ROLLOUT) == QUEUED | FINAL | {"preparing", "running"}
    assert not QUEUED & FINAL
    assert set(ATTEMPT) == LIVE | ENDED | {"unresponsive"}
    assert not LIVE & ENDED
    assert set(ROLLOUT_TRANSITIONS) == set(ROLLOUT)
    assert set(ATTEMPT_TRANSITIONS) == set(ATTEMPT)


def test_nothing_follows_a_final_status() -> None:
    assert [status for status in ROLLOUT if not ROLLOUT_TRANSITIONS[status]] == ["failed", "succeeded", "cancelled"]
    assert [status for status in ATTEMPT if not ATTEMPT_TRANSITIONS[status]] == ["failed", "succeeded", "timeout"]


@pytest.mark.parametrize(("name", "first", "final", "follows"), [
    ("rollout", "queuing", FINAL, ROLLOUT_TRANSITIONS),
    ("attempt", "preparing", ENDED, ATTEMPT_TRANSITIONS),
])  # fmt: skip
def test_the_diagram_shows_every_transition_and_no_other(name: str, first: str, final: set, follows: dict) -> None:
    kind, *lines = diagrams()[name].splitlines()
    drawn = [re.fullmatch(r" +(\S+) --> (\S+)", line).groups() for line in lines]  # type: ignore[union-attr]

    assert kind == "stateDiagram-v2"
    assert drawn[0] == ("[*]", first)
    assert sorted(drawn[1:]) == sorted(
        [(status, after) for status, afters in follows.items() for after in afters]
        + [(status, "[*]") for status in final]
    )


# Whole lives


class Life:
    """One rollout and its attempts, moved only by the rules; remembers where it has been."""

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
                self.speak(back, lambda now: report(now, status))
            case ("sign", back):
                self.speak(back, heartbeat)
            case ("hand", status):
                latest = self.attempts[-1] if self.attempts else None
                self.become(set_rollout_status("ro-1", self.rollout, latest, status))

    def speak(self, back: int, rule) -> None:
        if back >= len(self.attempts):
            return
        at = len(self.attempts) - 1 - back
        now = standing(self.rollout, self.attempts[at], latest=back == 0, sequence_id=at + 1, config=self.config)
        if after := rule(now):
            assert back == 0, "a superseded attempt was heard"
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
    st.tuples(st.just("sign"), st.integers(0, 1)),
    st.tuples(st.just("hand"), st.sampled_from(ROLLOUT)),
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
def test_at_most_the_latest_attempt_is_live_and_only_while_its_rollout_is_under_way(
    config: RolloutConfig, calls: list[tuple]
) -> None:
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
def test_the_store_alone_never_makes_more_attempts_than_allowed(config: RolloutConfig, calls: list[tuple]) -> None:
    life = Life(config)

    for call in calls:
        if call[0] == "hand":
            continue
        try:
            life.do(call)
        except Conflict:
            continue

    assert len(life.attempts) <= config.max_attempts
