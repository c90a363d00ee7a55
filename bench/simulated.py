"""Two fleets in virtual time that count what the sizing model predicts.

    lanes     replicas with one batch under way each, before one store that serves a batch after the other: how batches
              form and queue. Requests and batches are numbers; nothing of the gate runs
    leases    the tests' fleet, with the real policy, ledger and window: how often hot counters are asked.
              Its store takes no time

Arrivals are random (exponential gaps), with a seed; the same call gives the same numbers.
"""

from __future__ import annotations

import random
from heapq import heappop, heappush
from itertools import repeat
from typing import NamedTuple, Protocol

from sidecar.core.window import Ask, Grant
from sidecar.store.memory import MemoryStore
from tests.doubles import EPOCH_MS, Asked, Clock, Fate, Fleet, limit, request


class Lanes(NamedTuple):
    """`p50_ms` and `p99_ms` are from a request to its grant."""

    decisions: int
    calls: int
    p50_ms: float
    p99_ms: float
    busy: float
    """Share of the time that the store was serving."""


class Leases(NamedTuple):
    decisions: int
    allowed: int
    asks: int
    calls: int


class Hot(Protocol):
    """What `leases` needs of `sizing.Load`: every request is a hot subject's."""

    @property
    def requests_s(self) -> float: ...
    @property
    def hot(self) -> int: ...
    @property
    def limits(self) -> int: ...
    @property
    def permits(self) -> int: ...
    @property
    def window_ms(self) -> int: ...
    @property
    def slices(self) -> int: ...
    @property
    def replicas(self) -> int: ...
    @property
    def met(self) -> int: ...
    @property
    def round_trip_ms(self) -> float: ...


def lanes(
    *,
    requests_s: float,
    limits: int,
    replicas: int,
    round_trip_ms: float,
    call_us: float,
    counter_us: float,
    seconds: float,
    seed: int = 1,
) -> Lanes:
    """Every request asks for `limits` counters of one shard."""
    chance = random.Random(seed)
    mean_gap_ms = 1000 * replicas / requests_s
    until_ms = 1000 * seconds

    def gap_ms() -> float:
        return chance.expovariate(1 / mean_gap_ms)

    # At the store in this order: when the batch gets there, whose it is, and when its requests came.
    queue: list[tuple[float, int, list[float]]] = []
    nexts: list[float] = []
    for replica in range(replicas):
        first_ms = gap_ms()
        heappush(queue, (first_ms + round_trip_ms / 2, replica, [first_ms]))
        nexts.append(first_ms + gap_ms())
    free_ms = served_ms = 0.0
    calls = 0
    waits_ms: list[float] = []
    while queue[0][0] < until_ms:
        there_ms, replica, came = heappop(queue)
        takes_ms = (call_us + len(came) * limits * counter_us) / 1000
        free_ms = max(free_ms, there_ms) + takes_ms
        served_ms += takes_ms
        calls += 1
        back_ms = free_ms + round_trip_ms / 2
        waits_ms += [back_ms - came_ms for came_ms in came]
        next_ms = nexts[replica]
        waiting = [next_ms]
        next_ms += gap_ms()
        while next_ms <= back_ms:
            waiting.append(next_ms)
            next_ms += gap_ms()
        nexts[replica] = next_ms
        heappush(queue, (max(back_ms, waiting[0]) + round_trip_ms / 2, replica, waiting))
    waits_ms.sort()
    count = len(waits_ms)
    return Lanes(
        count, calls, waits_ms[count // 2], waits_ms[count * 99 // 100], served_ms / max(free_ms, until_ms)
    )


class _Counting(MemoryStore):
    """The reference store, which counts what it is asked for; what only goes back does not count."""

    asks = 0

    def take_one(self, key: bytes, ask: Ask) -> Grant:
        self.asks += bool(ask.want)
        return super().take_one(key, ask)


def leases(load: Hot, *, seconds: float, seed: int = 1) -> Leases:
    """Hot subjects alone, each request to one of the replicas that its subject meets, at random.

    The first window fills up and is not counted.
    """
    chance = random.Random(seed)
    limits = [
        limit(f"hot-{number}", load.permits, load.window_ms, slices=load.slices)
        for number in range(load.limits)
    ]
    way_ms = load.round_trip_ms / 2
    fleet = Fleet(limits, clocks=[Clock()] * load.replicas, fates=repeat(Fate(way_ms, way_ms)))
    store = _Counting(clock_ms=lambda: EPOCH_MS + int(fleet.now_ms))
    fleet.store = store
    askers = [request(f"203.0.113.{number}") for number in range(load.hot)]
    begin_ms = float(load.window_ms)
    asks_before = calls_before = 0
    counted: list[Asked] = []
    at_ms = 0.0
    while (at_ms := at_ms + chance.expovariate(load.requests_s / 1000)) < begin_ms + 1000 * seconds:
        fleet.run_until(at_ms)
        if at_ms >= begin_ms and not counted:
            asks_before, calls_before = store.asks, fleet.store_calls
        subject = chance.randrange(load.hot)
        replica = (subject * load.met + chance.randrange(load.met)) % load.replicas
        asked = fleet.replicas[replica].check(askers[subject])
        if at_ms >= begin_ms:
            counted.append(asked)
    fleet.run_until(fleet.now_ms + 50.0)
    decisions, allowed = len(counted), sum(asked.allowed for asked in counted)
    return Leases(decisions, allowed, store.asks - asks_before, fleet.store_calls - calls_before)
