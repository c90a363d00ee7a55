"""The sketches: what they promise, for all streams, against exact counting."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.model import Reason, Request, Verdict
from sidecar.core.sketch import (
    AIM_PER_S,
    CAPACITY,
    MINUTE_MS,
    MINUTES,
    By,
    Entry,
    Merging,
    SpaceSaving,
    Summary,
    Tally,
)

OK = Verdict(Reason.OK)
LIMITED = Verdict(Reason.RATE_LIMITED)

names = st.integers(0, 40).map(str)
streams = st.lists(st.tuples(names, st.integers(1, 9)), max_size=300)
capacities = st.integers(1, 12)

Stream = Sequence[tuple[str, int]]


def counted(streams: Iterable[Stream]) -> Counter[str]:
    """The oracle: every name with its own counter."""
    exact: Counter[str] = Counter()
    for stream in streams:
        for name, weight in stream:
            exact[name] += weight
    return exact


def sketched(stream: Stream, capacity: int) -> SpaceSaving:
    sketch = SpaceSaving(capacity)
    for name, weight in stream:
        sketch.add(name, weight)
    return sketch


def merged(summaries: Iterable[Summary], most: int) -> Summary:
    merging = Merging()
    for summary in summaries:
        merging.add(summary)
    return merging.summary(most)


def assert_true_of(summary: Summary, exact: Counter[str]) -> None:
    for entry in summary.entries:
        assert entry.at_least <= exact[entry.name] <= entry.at_most, entry
    listed = {entry.name for entry in summary.entries}
    assert len(listed) == len(summary.entries)
    assert all(count <= summary.unlisted for name, count in exact.items() if name not in listed)


# --- one sketch -----------------------------------------------------------------


@given(streams, capacities)
def test_it_bounds_every_count_from_both_sides(stream: Stream, capacity: int) -> None:
    sketch = sketched(stream, capacity)

    assert_true_of(sketch.summary(), counted([stream]))


@given(streams, capacities)
def test_it_lists_whoever_has_more_than_his_share(stream: Stream, capacity: int) -> None:
    summary = sketched(stream, capacity).summary()

    exact = counted([stream])
    listed = {entry.name for entry in summary.entries}
    assert summary.unlisted * capacity <= exact.total()
    assert {name for name, count in exact.items() if count * capacity > exact.total()} <= listed


@given(streams, capacities)
def test_its_counts_add_up_in_its_counters(stream: Stream, capacity: int) -> None:
    sketch = sketched(stream, capacity)
    summary = sketch.summary()

    assert sum(entry.at_most for entry in summary.entries) == sketch.total == counted([stream]).total()
    assert len(summary.entries) <= capacity
    assert [e.at_most for e in summary.entries] == sorted((e.at_most for e in summary.entries), reverse=True)


@given(streams)
def test_it_is_exact_while_there_are_counters_for_everybody(stream: Stream) -> None:
    summary = sketched(stream, 41).summary()

    assert {entry.name: entry.at_most for entry in summary.entries} == counted([stream])
    assert all(entry.error == 0 for entry in summary.entries)


# --- several --------------------------------------------------------------------


@given(st.lists(st.tuples(streams, capacities), max_size=5), st.integers(1, 8))
def test_a_sum_bounds_every_count_from_both_sides(parts: list[tuple[Stream, int]], most: int) -> None:
    summary = merged([sketched(stream, capacity).summary() for stream, capacity in parts], most)

    assert len(summary.entries) <= most
    assert_true_of(summary, counted(stream for stream, _ in parts))


@given(st.lists(streams, max_size=6), st.integers(1, 6))
def test_a_sum_of_sums_lists_whoever_has_more_than_his_share(parts: list[Stream], most: int) -> None:
    sketches = [sketched(stream, most + 1).summary() for stream in parts]
    summary = merged([merged(sketches[:3], most), merged(sketches[3:], most)], most)

    exact = counted(parts)
    assert_true_of(summary, exact)
    assert summary.unlisted * (most + 1) <= exact.total()


def test_it_ranks_by_what_is_certain() -> None:
    merging = Merging()
    merging.add(Summary((Entry("late", 90, 89), Entry("steady", 80, 0)), 80))

    assert merging.surest(1) == (Entry("steady", 80, 0),)
    assert merging.surest(9) == (Entry("steady", 80, 0), Entry("late", 90, 89))


# --- the tally ------------------------------------------------------------------


def request(address: str = "203.0.113.9", path: str = "/a") -> Request:
    return Request(address=address, method="GET", host="", path=path, headers={})


def tally(seed: int = 1, now_ms: float = 0.0) -> Tally:
    return Tally(
        names=lambda asked: (asked.address, asked.path), chance=random.Random(seed).random, now_ms=now_ms
    )


def summary_of(tally: Tally, by: By = By.ADDRESS, *, refused: bool = False) -> Summary:
    steps = tally.summary_steps(by, refused=refused, most=64)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return cast("Summary", done.value)


def listed(tally: Tally, by: By = By.ADDRESS, *, refused: bool = False) -> dict[str, int]:
    return {entry.name: entry.at_least for entry in summary_of(tally, by, refused=refused).entries}


def flood(tally: Tally, requests: Iterable[Request], *, per_s: int, now_ms: float = 0.0) -> float:
    """Send requests at a constant rate, with the turns between; returns when it ended."""
    for number, asked in enumerate(requests, 1):
        tally.seen(asked, OK)
        if number % per_s == 0:
            now_ms += 1000.0
            tally.turn(now_ms)
    return now_ms


def test_it_counts_every_request_of_a_quiet_gate() -> None:
    quiet = tally()
    keyed = Verdict(Reason.OK, key_id=b"ab12")

    for verdict in (OK, LIMITED, LIMITED, keyed):
        quiet.seen(request(), verdict)
    quiet.seen(request("192.0.2.1", "/b"), LIMITED)

    assert listed(quiet) == {"203.0.113.9": 4, "192.0.2.1": 1}
    assert listed(quiet, refused=True) == {"203.0.113.9": 2, "192.0.2.1": 1}
    assert listed(quiet, By.ROUTE) == {"/a": 4, "/b": 1}
    assert listed(quiet, By.KEY) == {"ab12": 1}
    assert listed(quiet, By.KEY, refused=True) == {}


def test_it_forgets_what_is_older_than_its_minutes() -> None:
    forgetful = tally()
    for minute in range(8):
        forgetful.turn(minute * MINUTE_MS)
        forgetful.seen(request(f"10.0.0.{minute}"), OK)

    assert list(listed(forgetful)) == [f"10.0.0.{minute}" for minute in range(8 - MINUTES, 8)]
    assert not forgetful.empty
    forgetful.turn(30 * MINUTE_MS)
    assert listed(forgetful) == {}
    assert forgetful.empty


def test_it_says_how_long_it_has_looked() -> None:
    young = tally(now_ms=MINUTE_MS * 7 + 10_000.0)

    assert young.covers_s(MINUTE_MS * 7 + 13_000.0) == 3
    young.turn(MINUTE_MS * 20 + 15_000.0)
    assert young.covers_s(MINUTE_MS * 20 + 15_000.0) == 4 * 60 + 15


def test_it_looks_at_about_a_thousand_a_second_however_many_come() -> None:
    busy = tally()
    settled_ms = flood(busy, [request()] * 60_000, per_s=30_000)
    before = busy.samples

    flood(busy, [request()] * 300_000, per_s=30_000, now_ms=settled_ms)

    assert 0.9 * AIM_PER_S < (busy.samples - before) / 10 < 1.1 * AIM_PER_S


def test_a_burst_costs_little_before_its_rate_is_known() -> None:
    surprised = tally()

    for _ in range(100_000):
        surprised.seen(request(), OK)

    assert surprised.samples < 8 * AIM_PER_S


def test_it_counts_everything_again_when_it_is_quiet_again() -> None:
    calm = tally()
    now_ms = flood(calm, [request()] * 20_000, per_s=10_000)
    assert calm.stride > 1
    calm.turn(now_ms + 1000.0)

    before = calm.samples
    for _ in range(100):
        calm.seen(request(), OK)

    assert calm.samples - before == 100


def test_its_estimates_are_right_in_the_mean_while_the_rate_changes() -> None:
    """Of 40 tallies with other chances: their mean is within four of its own standard deviations."""
    few, many = request("192.0.2.1"), request("192.0.2.2")
    rates = (200, 3_000, 6_000, 1_500)
    truth = sum(rate // 10 for rate in rates)
    estimates = []
    for seed in range(40):
        one = tally(seed)
        now_ms = 0.0
        for per_s in rates:
            requests = [few if k % 10 == 0 else many for k in range(per_s)]
            now_ms = flood(one, requests, per_s=per_s, now_ms=now_ms)
        estimates.append(listed(one)["192.0.2.1"])

    mean = sum(estimates) / len(estimates)
    deviation = (sum((estimate - mean) ** 2 for estimate in estimates) / (len(estimates) - 1)) ** 0.5
    assert deviation > 0
    assert abs(mean - truth) < 4 * deviation / len(estimates) ** 0.5


def test_who_is_heavy_stands_out_of_a_flood_of_strangers() -> None:
    chance = random.Random(2)
    crowd = tally()
    strangers = (request(f"10.{k >> 16}.{k >> 8 & 255}.{k & 255}") for k in range(200_000))
    mixed = (request() if chance.random() < 0.03 else stranger for stranger in strangers)

    flood(crowd, mixed, per_s=20_000)

    summary = summary_of(crowd)
    first = max(summary.entries, key=lambda entry: entry.at_least)
    assert first.name == "203.0.113.9"
    assert first.at_least > 0.02 * 200_000
    others = [entry.at_least for entry in summary.entries if entry is not first]
    assert max(others) < 0.1 * first.at_least
    assert summary.unlisted < 2 * 200_000 / CAPACITY
