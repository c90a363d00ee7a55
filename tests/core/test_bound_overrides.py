"""The bound while operators change a limit's permits: no window holds more than the largest of them in it.

As `test_bound`, in virtual time; overrides come and go, and reach each replica at its own time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import cycle
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.core.ledger import Ledger
from tests.controls import control
from tests.core.test_bound import BURSTS, CLOCKS, NETWORKS, Burst
from tests.doubles import DEADLINE_MS, Clock, Fate, Fleet, limit, request

SUBJECTS = ["address:192.0.2.0/32", "address:192.0.2.1/32", "address:192.0.2.0/24"]


class Set(NamedTuple):
    """After so many bursts an override is set (None: unset); replica k has it `lag_ms * k` later."""

    after: int
    subject: str
    permits: int | None
    lag_ms: float


SETS = st.lists(
    st.builds(
        Set,
        after=st.integers(0, 30),
        subject=st.sampled_from(SUBJECTS),
        permits=st.sampled_from([None, 0, 1, 2, 9, 60, 400]),
        lag_ms=st.sampled_from([0.0, 3.0, 40.0, 300.0]),
    ),
    max_size=8,
)


class Permits:
    """The permits of each subject at each replica, over time."""

    def __init__(self, usual: int, replicas: int) -> None:
        self.since: list[list[tuple[float, dict[str, int]]]] = [[(0.0, {})] for _ in range(replicas)]
        self._usual = usual

    def most(self, address: str, begin_ms: float, end_ms: float) -> int:
        """The most that were in force anywhere at some time between."""
        most = 0
        for steps in self.since:
            ends = [*(at_ms for at_ms, _ in steps[1:]), float("inf")]
            for (at_ms, overrides), until_ms in zip(steps, ends, strict=True):
                if at_ms <= end_ms and until_ms >= begin_ms:
                    default = overrides.get("address:192.0.2.0/24", self._usual)
                    most = max(most, overrides.get(f"address:{address}/32", default))
        return most


def play(fleet: Fleet, bursts: Sequence[Burst], sets: Sequence[Set], permits: Permits) -> None:
    overrides: dict[str, int] = {}
    at_ms = 0.0
    for number, burst in enumerate(bursts):
        at_ms += burst.gap_ms
        fleet.run_until(at_ms)
        for one in sets:
            if one.after != number:
                continue
            overrides.pop(one.subject, None)
            if one.permits is not None:
                overrides[one.subject] = one.permits
            for replica in range(len(fleet.replicas)):
                fleet.at(
                    at_ms + one.lag_ms * replica, partial(tell, fleet, replica, dict(overrides), permits)
                )
        replica = burst.replica % len(fleet.replicas)
        for _ in range(burst.requests):
            fleet.run_until(at_ms)
            fleet.replicas[replica].check(request(f"192.0.2.{burst.address}", cost=burst.cost))
            at_ms += burst.every_ms
    fleet.run_until(at_ms + 1_500)


def tell(fleet: Fleet, number: int, overrides: dict[str, int], permits: Permits) -> None:
    """One replica learns of the overrides."""
    replica = fleet.replicas[number]
    state = control(overrides={f"per-ip {subject}": of for subject, of in overrides.items()})
    replica.policy = replica.policy.under(state)
    permits.since[number].append((fleet.now_ms, overrides))


def over(fleet: Fleet, permits: Permits) -> list[str]:
    """The windows that held more than the largest permits that were in force in them."""
    (rule,) = fleet.limits
    found = []
    for key, admissions in fleet.admitted.items():
        address = key.decode().rpartition(":")[2]
        for start_ms, _ in admissions:
            end_ms = start_ms + rule.window_ms
            held = sum(cost for at_ms, cost in admissions if start_ms <= at_ms <= end_ms)
            # Who asked before the change may be answered after it, until the deadline.
            most = permits.most(address, start_ms - DEADLINE_MS, end_ms)
            if held > most:
                found.append(f"{address} from {start_ms}: {held} of {most}")
    return found


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    usual=st.sampled_from([1, 3, 12, 200]),
    window_ms=st.sampled_from([1_000, 1_300, 3_000]),
    slices=st.sampled_from([1, 5, 60]),
    lease=st.booleans(),
    block_ms=st.sampled_from([0, 0, 300]),
    clocks=CLOCKS,
    network=NETWORKS,
    bursts=BURSTS,
    sets=SETS,
)
def test_it_admits_at_most_the_largest_permits_of_the_time(
    usual: int,
    window_ms: int,
    slices: int,
    lease: bool,
    block_ms: int,
    clocks: list[Clock],
    network: list[Fate],
    bursts: list[Burst],
    sets: list[Set],
) -> None:
    rule = limit("per-ip", usual, window_ms, slices=slices, lease=lease, block_ms=block_ms)
    fleet = Fleet([rule], clocks=clocks, fates=cycle(network))
    permits = Permits(usual, len(clocks))

    play(fleet, bursts, sets, permits)

    assert over(fleet, permits) == []


# --- the worst, and the oracle's own test ---------------------------------------


def hoard() -> list[str]:
    """Lease under a large limit, then spend under a small one."""
    fleet = Fleet([limit("per-ip", 400, 3_000, slices=1)])
    permits = Permits(400, 1)
    for at_ms in range(100, 200):
        fleet.run_until(at_ms)
        fleet.replicas[0].check(request("192.0.2.1"))
    fleet.run_until(300)
    tell(fleet, 0, {"address:192.0.2.1/32": 1}, permits)
    for at_ms in range(400, 500):
        fleet.run_until(at_ms)
        fleet.replicas[0].check(request("192.0.2.1"))
    fleet.run_until(4_000)
    return over(fleet, permits)


def test_it_spends_nothing_under_a_lowered_limit_that_was_granted_before() -> None:
    assert hoard() == []


def test_it_would_be_noticed_if_permits_outlived_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "forget", lambda ledger, counter: None)

    assert hoard() != []
