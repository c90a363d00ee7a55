"""The trigger: held against an oracle that looks back at everything, and against each row of its table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.control import Entry
from sidecar.core.trigger import LEAST_APART_MS, MOST_GAP_MS, Report, Thresholds, Trigger, Turn

FOR_MS = 3_000
QUIET_MS = 5_000
BOTH = Thresholds(refusals_per_s=10, requests_per_s=100, for_ms=FOR_MS, quiet_ms=QUIET_MS)
START_MS = 1_795_323_600_000


def entry(
    *, on: bool, actor: str = "alice", trigger: bool = False, at_ms: int = 0, until_ms: int = 0
) -> Entry:
    members: dict[str, object] = {"on": on, "actor": actor, "reason": ""}
    if trigger:
        members["trigger"] = True
    return Entry(at_ms, until_ms, json.dumps(members).encode())


OWN_ON = entry(on=True, actor="trigger", trigger=True)
OWN_OFF = entry(on=False, actor="trigger", trigger=True)
EXPIRED = entry(on=False, actor="")
PERSONS = (
    entry(on=True),
    entry(on=False),
    entry(on=True, actor="trigger"),  # a token may have this name
    entry(on=False, actor="trigger"),
    entry(on=False, until_ms=1 << 60),
    Entry(0, 0, b"{}"),
    Entry(0, 0, b"junk"),
)


# --- histories ------------------------------------------------------------------


class Seen(NamedTuple):
    """One look: so long after the one before; what each replica counted since, and did it begin anew.

    A replica that is not in `counted` is lost.
    """

    gap_ms: int
    counted: Mapping[str, tuple[int, int, bool]]


# Gaps that divide a second, so that the oracle's rates are exact.
_gaps = st.sampled_from([LEAST_APART_MS, 1_000, 1_000, 1_000])
_counts = st.tuples(st.sampled_from([0, 2, 30, 60, 130]), st.sampled_from([0, 0, 3, 12]))
_anew = st.integers(0, 30).map(lambda dice: dice == 0)
_steady = st.tuples(st.dictionaries(st.sampled_from("abc"), _counts), st.integers(1, 9))


@st.composite
def histories(draw: st.DrawFn) -> list[Seen]:
    """Phases of steady traffic, with a restart here and there and a rare long silence."""
    history: list[Seen] = []
    for counts, looks in draw(st.lists(_steady, min_size=1, max_size=6)):
        for _ in range(looks):
            counted = {name: (*count, draw(_anew)) for name, count in counts.items()}
            gap_ms = MOST_GAP_MS + 1 if draw(st.integers(0, 60)) == 0 else draw(_gaps)
            history.append(Seen(gap_ms, counted))
    return history


class Fleet:
    """Replicas that count, and report at every look."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.totals: dict[str, tuple[int, int]] = {}

    def after(self, seen: Seen) -> dict[str, Report]:
        self.now_ms += seen.gap_ms
        for name, (requests, refusals, anew) in seen.counted.items():
            before = self.totals.get(name, (1 << 200, 1 << 199))
            # Not from zero, so that even the next of many restarts shows: as a fall.
            before = (before[0] // 2, before[1] // 2) if anew else before
            self.totals[name] = (before[0] + requests, before[1] + refusals)
        return {name: Report(self.now_ms - START_MS, *self.totals[name]) for name in seen.counted}


class Judged(NamedTuple):
    at_ms: int
    passed: frozenset[str]
    known: bool
    broken: bool


def judged(history: Sequence[Seen], thresholds: Thresholds) -> list[Judged]:
    """What each look shows by itself, from it and the one before."""
    found: list[Judged] = []
    at_ms, before = START_MS, dict[str, tuple[int, int, bool]]()
    for number, seen in enumerate(history):
        at_ms += seen.gap_ms
        broken = number == 0 or seen.gap_ms > MOST_GAP_MS or not seen.counted
        rated = {
            name: (requests * 1000 / seen.gap_ms, refusals * 1000 / seen.gap_ms)
            for name, (requests, refusals, anew) in seen.counted.items()
            if not broken and name in before and not anew
        }
        requests_per_s, refusals_per_s = (sum(rates[which] for rates in rated.values()) for which in (0, 1))
        passed = set[str]()
        if thresholds.requests_per_s is not None and requests_per_s >= thresholds.requests_per_s:
            passed.add("requests")
        if thresholds.refusals_per_s is not None and refusals_per_s >= thresholds.refusals_per_s:
            passed.add("refusals")
        known = bool(rated) and rated.keys() == seen.counted.keys()
        found.append(Judged(at_ms, frozenset(passed), known, broken))
        before = dict(seen.counted)
    return found


def above_for_long(looks: Sequence[Judged], for_ms: int) -> bool:
    """Whether one threshold was passed at every look from some look on that is so long ago."""
    return any(
        looks[-1].at_ms - first.at_ms >= for_ms and all(name in look.passed for look in looks[at:])
        for name in ("requests", "refusals")
        for at, first in enumerate(looks)
    )


def quiet_for_long(looks: Sequence[Judged], quiet_ms: int) -> bool:
    """Whether no threshold was passed since a look that knew everybody and is so long ago, without a break."""
    return any(
        first.known
        and looks[-1].at_ms - first.at_ms >= quiet_ms
        and not any(look.passed for look in looks[at:])
        and not any(look.broken for look in looks[at + 1 :])
        for at, first in enumerate(looks)
    )


thresholds_ = st.builds(
    Thresholds,
    refusals_per_s=st.sampled_from([None, 10]),
    requests_per_s=st.just(100),
    for_ms=st.sampled_from([1_000, FOR_MS]),
    quiet_ms=st.sampled_from([1_000, QUIET_MS]),
)


@given(histories(), thresholds_)
def test_it_turns_on_after_just_so_long_above_and_off_after_just_so_long_below(
    history: list[Seen], thresholds: Thresholds
) -> None:
    trigger, fleet, looks = Trigger(thresholds), Fleet(), judged(history, thresholds)
    said: Entry | None = None

    for number, seen in enumerate(history):
        reports = fleet.after(seen)
        turn = trigger.look(fleet.now_ms, reports, said)

        past = looks[: number + 1]
        if said is None or b'"on": false' in said.payload:
            expected = True if above_for_long(past, thresholds.for_ms) else None
        else:
            rested = fleet.now_ms - said.at_ms >= thresholds.quiet_ms
            expected = False if rested and quiet_for_long(past, thresholds.quiet_ms) else None
        assert (None if turn is None else turn.on) == expected
        if turn is not None:
            said = entry(on=turn.on, actor="trigger", trigger=True, at_ms=fleet.now_ms)


@given(histories(), thresholds_, st.sampled_from(PERSONS))
def test_it_never_overrides_a_person(history: list[Seen], thresholds: Thresholds, said: Entry) -> None:
    trigger, fleet = Trigger(thresholds), Fleet()

    for seen in history:
        reports = fleet.after(seen)

        assert trigger.look(fleet.now_ms, reports, said) is None


# --- any spacing of looks -------------------------------------------------------

LOOK_MS = 1_000
SLACK_MS = 4_000
"""The report that has some of both, the next one, the look that sees it, and the look after the time is up."""


class Phases(NamedTuple):
    """Traffic of a replica: requests per second before the attack, in it and after it."""

    calm_per_s: int
    attack_per_s: int

    def by(self, at_ms: int, begin_ms: int, end_ms: int) -> int:
        attacked_ms = min(max(at_ms - begin_ms, 0), end_ms - begin_ms)
        return (self.calm_per_s * (at_ms - attacked_ms) + self.attack_per_s * attacked_ms) // 1000


def turns(
    fleet: Sequence[Phases], begin_ms: int, end_ms: int, gaps_ms: Sequence[int]
) -> list[tuple[int, bool]]:
    """When it turned on and off, with these gaps between looks over and over; a report a second each."""
    trigger, said = Trigger(BOTH), None
    found: list[tuple[int, bool]] = []
    now_ms, number = 0, 0
    while now_ms < end_ms + QUIET_MS + 2 * SLACK_MS:
        reports = {}
        for place, phases in enumerate(fleet):
            counted_ms = (now_ms - 300 * place) // 1000 * 1000 + 300 * place
            total = phases.by(counted_ms, begin_ms, end_ms) if counted_ms >= 0 else 0
            reports[str(place)] = Report(counted_ms, total, 0)
        turn = trigger.look(START_MS + now_ms, reports, said)
        if turn is not None:
            found.append((now_ms, turn.on))
            said = entry(on=turn.on, actor="trigger", trigger=True, at_ms=START_MS + now_ms)
        now_ms += gaps_ms[number % len(gaps_ms)]
        number += 1
    return found


@given(
    st.lists(st.builds(Phases, st.integers(0, 28), st.integers(120, 5_000)), min_size=1, max_size=3),
    st.integers(5_000, 8_000),
    st.integers(FOR_MS + SLACK_MS, 12_000),
    st.lists(st.integers(100, LOOK_MS), min_size=1, max_size=20),
)
def test_it_comes_to_the_same_however_looks_are_spaced(
    fleet: list[Phases], begin_ms: int, lasts_ms: int, gaps_ms: list[int]
) -> None:
    end_ms = begin_ms + lasts_ms

    found = turns(fleet, begin_ms, end_ms, gaps_ms)

    assert [on for _, on in found] == [True, False]
    assert begin_ms + FOR_MS <= found[0][0] <= begin_ms + FOR_MS + SLACK_MS
    assert end_ms + QUIET_MS <= found[1][0] <= end_ms + QUIET_MS + SLACK_MS


# --- one case each --------------------------------------------------------------


class Rig:
    """A trigger, and replicas that report once a second."""

    def __init__(self, thresholds: Thresholds = BOTH, said: Entry | None = None) -> None:
        self.trigger = Trigger(thresholds)
        self.said = said
        self.now_ms = START_MS
        self.totals: dict[str, Report] = {}

    def second(self, **rates: tuple[int, int]) -> Turn | None:
        """A second in which replicas counted so much; the others are lost."""
        self.now_ms += 1_000
        for name, (requests, refusals) in rates.items():
            before = self.totals.get(name, Report(0, 0, 0))
            self.totals[name] = Report(
                self.now_ms - START_MS, before.requests + requests, before.refusals + refusals
            )
        return self.look(*rates)

    def look(self, *names: str) -> Turn | None:
        return self.trigger.look(self.now_ms, {name: self.totals[name] for name in names}, self.said)

    def seconds(self, count: int, **rates: tuple[int, int]) -> list[bool | None]:
        turns_ = [self.second(**rates) for _ in range(count)]
        return [None if turn is None else turn.on for turn in turns_]


@pytest.mark.parametrize("said", [None, OWN_OFF, EXPIRED, entry(on=False, until_ms=START_MS)])
def test_it_may_turn_on_when_no_persons_word_stands(said: Entry | None) -> None:
    rig = Rig(said=said)

    assert rig.seconds(5, a=(100, 0)) == [None, None, None, None, True]


@pytest.mark.parametrize(
    "said", [OWN_ON, entry(on=True, actor="trigger", trigger=True, until_ms=START_MS + 60_000)]
)
def test_it_turns_off_only_what_it_turned_on(said: Entry) -> None:
    rig = Rig(said=said)

    assert rig.seconds(7, a=(99, 9)) == [None, None, None, None, None, None, False]


def test_it_does_not_turn_off_what_has_expired() -> None:
    rig = Rig(said=entry(on=True, actor="trigger", trigger=True, until_ms=START_MS))

    assert rig.seconds(10, a=(0, 0)) == [None] * 10


def test_it_leaves_on_what_a_gate_with_other_thresholds_turned_on_a_moment_ago() -> None:
    rig = Rig(said=OWN_OFF)
    rig.seconds(60, a=(1, 0))

    rig.said = entry(on=True, actor="trigger", trigger=True, at_ms=rig.now_ms)

    assert rig.seconds(5, a=(1, 0)) == [None, None, None, None, False]


def test_it_says_which_rate_passed_which_threshold() -> None:
    rig = Rig()
    rig.seconds(4, a=(400, 12), b=(20, 3))

    assert rig.second(a=(400, 12), b=(20, 3)) == Turn(
        True, "420 requests/s: at or above 100 for 3 s; 15 refusals/s: at or above 10 for 3 s"
    )


def test_it_says_how_little_is_left() -> None:
    rig = Rig(said=OWN_ON)
    rig.seconds(6, a=(7, 1))

    assert rig.second(a=(7, 1)) == Turn(False, "7 requests/s and 1 refusals/s: below the threshold for 5 s")


def test_it_adds_up_the_whole_fleet() -> None:
    rig = Rig()

    assert rig.seconds(5, a=(50, 0), b=(50, 0)) == [None, None, None, None, True]


def test_it_wants_one_threshold_passed_all_the_time_not_any_of_them() -> None:
    rig = Rig()
    rig.seconds(3, a=(100, 0))

    assert rig.seconds(3, a=(0, 10)) == [None, None, None]
    assert rig.seconds(1, a=(0, 10)) == [True]


def test_it_takes_what_is_new_or_began_anew_for_no_burst_and_no_fall() -> None:
    rig = Rig()
    rig.seconds(3, a=(100, 0))
    rig.totals["b"] = Report(1, 1 << 40, 1 << 40)
    assert rig.seconds(1, a=(100, 0), b=(0, 0)) == [None]

    rig.totals["b"] = Report(rig.now_ms - START_MS, 0, 0)

    assert rig.seconds(1, a=(100, 0), b=(50, 0)) == [True]


def test_it_counts_a_lost_replica_no_more() -> None:
    rig = Rig()
    rig.seconds(4, a=(60, 0), b=(60, 0))

    assert rig.seconds(5, a=(60, 0)) == [None] * 5
    rig.totals["b"] = Report(0, 1 << 40, 0)
    assert rig.seconds(4, a=(60, 0), b=(60, 0)) == [None] * 4


def test_it_makes_no_rate_of_reports_close_together() -> None:
    rig = Rig()
    rig.seconds(2, a=(1, 0))
    for _ in range(40):
        rig.now_ms += 100
        counted_ms, requests, _ = rig.totals["a"]
        rig.totals["a"] = Report(counted_ms + 10, requests + 3, 0)  # 300/s by its clock, for 10 ms at a time
        assert rig.look("a") is None


def test_it_keeps_the_rate_of_a_replica_that_reports_late() -> None:
    rig = Rig()
    rig.seconds(2, a=(100, 0))
    found = []
    for _ in range(3):
        rig.now_ms += 1_000
        found.append(rig.look("a"))

    assert [turn is not None for turn in found] == [False, False, True]


@pytest.mark.parametrize("gap_ms", [MOST_GAP_MS + 1, -1])
def test_it_begins_anew_when_time_has_jumped(gap_ms: int) -> None:
    rig = Rig()
    rig.seconds(4, a=(100, 0))
    rig.now_ms += gap_ms - 1_000

    assert rig.seconds(5, a=(1_000, 0)) == [None, None, None, None, True]


def test_it_begins_anew_when_told_so_or_nobody_is_there() -> None:
    rig = Rig()
    rig.seconds(4, a=(100, 0))
    rig.trigger.restart()
    assert rig.seconds(4, a=(100, 0)) == [None] * 4

    rig.look()

    assert rig.seconds(5, a=(100, 0)) == [None, None, None, None, True]


def test_it_is_not_quiet_before_everybodys_rate_is_known_but_a_newcomer_does_not_end_it() -> None:
    rig = Rig(said=OWN_ON)
    assert rig.seconds(1, a=(0, 0)) == [None]
    assert rig.seconds(1, a=(0, 0), b=(0, 0)) == [None]
    assert rig.seconds(5, a=(0, 0), b=(0, 0)) == [None] * 5

    assert rig.seconds(1, a=(0, 0), b=(0, 0), c=(0, 0)) == [False]
