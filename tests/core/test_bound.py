"""The bound: in any interval as long as the window, all replicas together admit at most the limit's permits.

Real ledgers and judges around one real memory store, in virtual time (`tests.doubles.Fleet`); the oracle looks
at every interval there is. And its price: how much of the limit steady traffic really gets.
"""

from __future__ import annotations

from itertools import cycle
from random import Random
from typing import Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.core import ledger
from sidecar.core.model import Limit
from tests.doubles import Clock, Fate, Fleet, limit, request

# --- the bound, for histories that Hypothesis makes up ------------------------

NETWORKS = st.lists(
    st.builds(
        Fate,
        out_ms=st.sampled_from([0.05, 0.3, 2.0, 15.0, 90.0, 700.0]),
        back_ms=st.sampled_from([0.0, 0.3, 2.0, 15.0, 90.0, 700.0]),
        request_lost=st.sampled_from([False] * 9 + [True]),
        reply_lost=st.sampled_from([False] * 9 + [True]),
    ),
    min_size=1,
    max_size=8,
)
CLOCKS = st.lists(
    st.builds(
        Clock, offset_ms=st.sampled_from([0.0, -7e6, 123.4, 9e9]), rate=st.sampled_from([1.0, 0.9995, 1.0005])
    ),
    min_size=1,
    max_size=5,
)


class Burst(NamedTuple):
    """Requests of one cost to one replica, `every_ms`; perhaps the replica crashes first."""

    gap_ms: float
    replica: int
    requests: int
    every_ms: float
    cost: int
    address: int
    crash: bool


BURSTS = st.lists(
    st.builds(
        Burst,
        gap_ms=st.sampled_from([0.0, 1.0, 9.0, 21.0, 130.0, 480.0, 1_001.0, 2_500.0]),
        replica=st.integers(0, 4),
        requests=st.integers(1, 8),
        every_ms=st.sampled_from([0.0, 0.1, 1.7, 19.0, 60.0]),
        cost=st.integers(1, 3),
        address=st.integers(0, 1),
        crash=st.sampled_from([False] * 12 + [True]),
    ),
    min_size=1,
    max_size=40,
)


@st.composite
def limits(draw: st.DrawFn) -> list[Limit]:
    """Two limits, so that permits lie in hands because the other one refused."""
    window_ms = draw(st.sampled_from([1_000, 1_300, 3_000]))
    slices = draw(st.sampled_from([1, 2, 5, 60]))
    lease = draw(st.booleans())
    block_ms = draw(st.sampled_from([0, 0, 0, 300]))
    per_ip, everybody = draw(st.integers(1, 12)), draw(st.integers(1, 25))
    return [
        limit("per-ip", per_ip, window_ms, slices=slices, lease=lease, block_ms=block_ms),
        limit("all", everybody, 2_000, per=["global"], slices=slices, lease=lease),
    ]


def play(fleet: Fleet, bursts: list[Burst]) -> None:
    at_ms = 0.0
    for burst in bursts:
        at_ms += burst.gap_ms
        fleet.run_until(at_ms)
        replica = fleet.replicas[burst.replica % len(fleet.replicas)]
        if burst.crash:
            replica.crash()
        for _ in range(burst.requests):
            fleet.run_until(at_ms)
            replica.check(request(f"192.0.2.{burst.address}", cost=burst.cost))
            at_ms += burst.every_ms
    fleet.run_until(at_ms + 1_500)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(rules=limits(), clocks=CLOCKS, network=NETWORKS, bursts=BURSTS)
def test_it_admits_at_most_the_limit_in_any_interval(
    rules: list[Limit], clocks: list[Clock], network: list[Fate], bursts: list[Burst]
) -> None:
    fleet = Fleet(rules, clocks=clocks, fates=cycle(network))

    play(fleet, bursts)

    assert fleet.over_limit() == []


# --- the same, for load that Hypothesis would not make ------------------------


def storm(seed: int) -> Fleet:
    """Several seconds above the limit on every replica at once; every number is drawn from the seed."""
    dice = Random(seed)
    window_ms = dice.choice([1_000, 1_500, 2_000])
    rules = [
        limit(
            "per-ip",
            dice.choice([3, 20, 60]),
            window_ms,
            slices=dice.choice([3, 7, 60]),
            lease=dice.random() < 0.8,
        )
    ]
    clocks = [
        Clock(dice.uniform(-1e6, 1e6), dice.choice([0.9995, 1.0, 1.0005])) for _ in range(dice.randint(1, 8))
    ]
    slow = dice.choice([0.3, 5.0, 40.0])

    def network() -> Fate:
        lost = dice.random()
        return Fate(dice.expovariate(1 / slow), dice.expovariate(1 / slow), lost < 0.01, lost > 0.98)

    fleet = Fleet(rules, clocks=clocks, fates=iter(network, None))
    rate = dice.choice([1.0, 2.0, 6.0]) * rules[0].permits / window_ms
    at_ms = 0.0
    while at_ms < 4 * window_ms:
        at_ms += dice.expovariate(rate)
        fleet.run_until(at_ms)
        replica = dice.choice(fleet.replicas)
        if dice.random() < 0.002:
            replica.crash()
        replica.check(request(cost=dice.choice([1, 1, 1, 2])))
    fleet.run_until(at_ms + 1_000)
    return fleet


@pytest.mark.parametrize("seed", range(40))
def test_it_admits_at_most_the_limit_in_a_storm(seed: int) -> None:
    assert storm(seed).over_limit() == []


LATE_MS: Final = 15.0


def hoard(begin_ms: float) -> Fleet:
    """The worst that can be done with permits that outlive their slice.

    Lease just before a slice ends, spend what is left just after it, take the rest of the limit; and one window
    later, when the slice no longer counts, take all of its permits again in the same few milliseconds.
    """
    fleet = Fleet([limit("per-ip", 200, 1_000, slices=5)], clocks=[Clock(), Clock(7e4)])
    saver, spender = fleet.replicas
    at_ms = begin_ms
    while at_ms < 200.0:
        fleet.run_until(at_ms)
        saver.check(request())
        at_ms += 0.4
    for late_ms in range(1, int(LATE_MS)):
        fleet.run_until(200.0 + late_ms)
        saver.check(request())
    for at_ms in (220.0, 1_200.5, 1_202.0, 1_204.0):
        fleet.run_until(at_ms)
        for _ in range(250):
            spender.check(request())
    fleet.run_until(3_000.0)
    return fleet


def hoards() -> list[str]:
    return [found for tenth in range(1_500, 1_990, 7) for found in hoard(tenth / 10).over_limit()]


def test_it_admits_at_most_the_limit_to_who_hoards() -> None:
    assert hoards() == []


def test_it_would_be_noticed_if_permits_outlived_their_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle's own test: without the rule that the bound rests on, it finds a violation."""
    monkeypatch.setattr(ledger, "DRIFT_MS", -LATE_MS)

    assert hoards() != []


# --- its price ----------------------------------------------------------------


class Got(NamedTuple):
    of_offered: float
    of_limit: float
    calls_per_decision: float


def steady(rule: Limit, *, times: float, replicas: int, windows: int = 5) -> Got:
    """What evenly spaced traffic at `times` the limit gets, after two windows to settle."""
    fleet = Fleet([rule], clocks=[Clock()] * replicas)
    askers = [request() for _ in range(replicas)]
    gap_ms = rule.window_ms / (rule.permits * times)
    settled = int(2 * rule.permits * times)
    asked = []
    for at in range(settled + int(windows * rule.permits * times)):
        fleet.run_until(at * gap_ms)
        asked.append(fleet.replicas[at % replicas].check(askers[at % replicas]))
    fleet.run_until(len(asked) * gap_ms + 100)
    admitted = sum(one.allowed for one in asked[settled:])
    return Got(
        admitted / (len(asked) - settled), admitted / (windows * rule.permits), fleet.store_calls / len(asked)
    )


@pytest.mark.parametrize("lease", [False, True], ids=["without leases", "with leases"])
@pytest.mark.parametrize("replicas", [1, 4])
@pytest.mark.parametrize(
    ("permits", "window_ms"), [(100, 10_000), (600, 10_000), (100, 60_000), (600, 60_000)]
)
def test_it_gives_steady_traffic_98_percent_of_the_limit(
    permits: int, window_ms: int, replicas: int, lease: bool
) -> None:
    rule = limit(permits=permits, window_ms=window_ms, lease=lease)

    at_the_limit = steady(rule, times=1, replicas=replicas)
    above = steady(rule, times=2, replicas=replicas)

    assert at_the_limit.of_offered >= 0.98
    assert above.of_limit >= 0.98


@pytest.mark.parametrize("replicas", [1, 4])
def test_it_gives_what_the_floor_of_20_ms_leaves_of_the_shortest_window(replicas: int) -> None:
    rule = limit(permits=600, window_ms=1_000)
    shortest: Final = 50 / 51  # slices of 20 ms

    at_the_limit = steady(rule, times=1, replicas=replicas)
    above = steady(rule, times=2, replicas=replicas)

    assert at_the_limit.of_offered >= shortest - 0.005
    assert above.of_limit >= 0.98


def test_it_asks_the_store_seldom_for_a_hot_counter() -> None:
    rule = limit(permits=6_000, window_ms=10_000)

    assert steady(rule, times=0.5, replicas=1, windows=1).calls_per_decision <= 0.1
    assert (
        steady(limit(permits=6_000, lease=False), times=0.5, replicas=1, windows=1).calls_per_decision >= 0.9
    )
