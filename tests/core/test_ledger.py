"""What a process holds of the fleet's counters: asked for together, spent in time, given back, never made up."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.ledger import FOREVER, IDLE_SWEEPS, Batch, Counter, Ledger, closed, enough
from sidecar.core.model import Limit
from sidecar.core.window import Ask, Grant
from sidecar.store.memory import MemoryStore
from tests.doubles import EPOCH_MS, SWEEP_MS, Clock, Fleet, limit, policy, request

LIMIT: Final = limit(permits=10, window_ms=60_000, lease=False)
"""Slices of a second."""


class Waiting:
    """A request that waits; the ledger counts what it lacks."""

    def __init__(self) -> None:
        self.missing = 0


class Process:
    """A ledger and a store that answers at once, by the same clock: milliseconds since a slice began."""

    def __init__(self, *, replicas: int = 1, most: int = 65_536, most_asks: int = 1_000) -> None:
        self.now_ms = 0.0
        self.ledger = Ledger(most=most, most_asks=most_asks)
        self.ledger.replicas = replicas
        self.store = MemoryStore(clock_ms=lambda: EPOCH_MS + int(self.now_ms))

    def counter(self, of: Limit = LIMIT, name: bytes = b"pc:{0}:per-ip:60000/1000:a") -> Counter:
        return Counter(of, of.permits, name, 0)

    def want(self, counter: Counter, *costs: int) -> list[Waiting]:
        waiting = [Waiting() for _ in costs]
        for cost, waiter in zip(costs, waiting, strict=True):
            self.ledger.want(counter, cost, waiter)
        return waiting

    def exchange(self, *, back_ms: float = 0.0) -> Batch:
        """One batch to the store and back; the answer takes `back_ms`."""
        sent_ms = self.now_ms
        batch = self.ledger.collect(0, sent_ms)
        grants = [self.store.take_one(key, ask) for key, ask in batch.asks]
        self.now_ms += back_ms
        self.ledger.apply(batch, grants, sent_ms, self.now_ms)
        self.ledger.settle(batch)
        return batch

    def used(self, counter: Counter) -> int:
        """Permits that the store counts."""
        limit = counter.limit
        look = Ask(10**6, limit.window_ms, limit.slice_ms, 0, 1, block_ms=limit.block_ms)
        return 10**6 - self.store.take_one(counter.key, look).room

    def sweep(self, times: int = 1) -> None:
        for _ in range(times):
            self.now_ms += SWEEP_MS
            self.ledger.sweep(self.now_ms)


# --- asking -------------------------------------------------------------------


def test_it_asks_once_for_all_who_wait() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 3, 1, 2)

    ((_, ask),) = process.exchange().asks

    assert (ask.want, ask.need) == (6, 1)
    assert counter.in_hand == 6


def test_it_counts_how_many_answers_a_request_lacks() -> None:
    process = Process()
    one, other = process.counter(), process.counter(name=b"pc:{0}:per-ip:60000/1000:b")
    waiter = Waiting()

    process.ledger.want(one, 1, waiter)
    process.ledger.want(other, 1, waiter)
    batch = process.ledger.collect(0, 0.0)

    assert waiter.missing == 2
    assert batch.waiters == [[waiter], [waiter]]


def test_it_lets_who_comes_meanwhile_wait_for_the_next_batch() -> None:
    process = Process()
    counter = process.counter()
    (first,) = process.want(counter, 1)
    batch = process.ledger.collect(0, 0.0)

    (second,) = process.want(counter, 1)

    assert batch.waiters == [[first]]
    assert process.ledger.collect(0, 0.0).waiters == [[second]]


def test_it_splits_what_is_too_much_for_one_batch_and_forgets_nobody() -> None:
    process = Process(most_asks=10)
    counters = [process.counter(name=b"pc:{0}:per-ip:60000/1000:%d" % at) for at in range(25)]
    for counter in counters:
        process.want(counter, 1)

    sizes = []
    while process.ledger.has_work(0):
        sizes.append(len(process.exchange().asks))

    assert sizes == [10, 10, 5]
    assert [counter.in_hand for counter in counters] == [1] * 25


def test_it_lets_neither_returns_nor_asks_starve() -> None:
    process = Process(most_asks=10)
    held = [process.counter(name=b"pc:{0}:per-ip:60000/1000:h%d" % at) for at in range(30)]
    for counter in held:
        process.want(counter, 1)
    while process.ledger.has_work(0):
        process.exchange()
    process.ledger.release_all()
    wanted = [process.counter(name=b"pc:{0}:per-ip:60000/1000:w%d" % at) for at in range(30)]
    for counter in wanted:
        process.want(counter, 1)

    batch = process.exchange()

    assert len(batch.asks) == 10
    assert 0 < sum(counter is None for counter in batch.counters) < 10


def test_it_has_no_work_when_nobody_waits() -> None:
    process = Process()

    assert not process.ledger.has_work(0)
    process.want(process.counter(), 1)
    assert process.ledger.has_work(0)
    process.exchange()
    assert not process.ledger.has_work(0)


def test_it_gives_back_what_is_too_little_with_the_ask_for_more() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 4)
    process.exchange()
    process.want(counter, 8)

    ((_, ask),) = process.exchange().asks

    assert (ask.give_back, counter.in_hand) == (4, 8)
    assert process.used(counter) == 8


# --- what an answer means -----------------------------------------------------


def test_it_spends_no_permit_after_its_slice() -> None:
    process = Process()
    counter = process.counter()
    process.now_ms = 400.0
    process.want(counter, 1)

    process.exchange(back_ms=5.0)

    assert 990 < counter.lapse_ms < 1_000
    assert enough(counter, 1, 900.0)
    assert not enough(counter, 1, 1_000.0)


def test_it_counts_a_slice_from_when_the_batch_was_sent() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 1)
    batch = process.ledger.collect(0, 0.0)
    grant = Grant(1, 9, EPOCH_MS // 1_000, 1_000, 0, 1, 1)

    process.ledger.apply(batch, [grant], 0.0, 900.0)

    assert counter.lapse_ms <= 1_000


def test_it_is_closed_until_the_store_can_grant_again() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 8)
    process.exchange()
    counter.in_hand = 0
    process.want(counter, 3)

    process.exchange()

    assert closed(counter, 3, 60_999.0)
    assert not closed(counter, 3, 61_000.0)


def test_it_is_closed_for_good_for_what_the_limit_never_admits() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 11)

    process.exchange()

    assert closed(counter, 11, 1e15)
    assert counter.retry_at_ms == FOREVER
    assert not closed(counter, 10, 0.0)


def test_it_is_open_for_costs_that_it_did_not_ask_for() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 8)
    process.exchange()
    counter.in_hand = 0
    process.want(counter, 5)

    process.exchange()

    assert closed(counter, 5, 0.0)
    assert closed(counter, 6, 0.0)
    assert not closed(counter, 4, 0.0)


def test_it_asks_a_closed_counter_again_in_the_next_slice_when_others_may_give_back() -> None:
    process = Process(replicas=2)
    counter = process.counter(limit(permits=10, window_ms=60_000))
    process.want(counter, 10)
    process.exchange()
    counter.in_hand = 0
    process.want(counter, 1)

    process.exchange()

    assert closed(counter, 1, 999.0)
    assert not closed(counter, 1, 1_000.0)
    assert counter.retry_at_ms == 61_000


def test_it_does_not_believe_an_answer_that_came_with_permits_too_late_to_be_spent() -> None:
    process = Process()
    counter = process.counter(limit(permits=1, window_ms=60_000))
    process.now_ms = 998.0
    process.want(counter, 1)

    process.exchange(back_ms=4.0)

    assert not enough(counter, 1, process.now_ms)
    assert not closed(counter, 1, process.now_ms)
    process.want(counter, 1)
    process.exchange()
    assert enough(counter, 1, process.now_ms)


# --- giving back --------------------------------------------------------------


def test_it_gives_back_at_the_end_of_the_slice() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 5)
    process.exchange()
    counter.in_hand = 2
    process.now_ms = 800.0

    process.sweep()
    process.exchange()

    assert counter.in_hand == 0
    assert process.used(counter) == 3


def test_it_gives_back_what_lies_idle_within_about_a_second() -> None:
    process = Process()
    counter = process.counter(limit(permits=10, window_ms=3_600_000))
    process.want(counter, 5)
    process.exchange()

    process.sweep(IDLE_SWEEPS)
    still = counter.in_hand
    process.sweep()
    process.exchange()

    assert (still, counter.in_hand) == (5, 0)
    assert process.now_ms <= 1_250
    assert process.used(counter) == 0


def test_it_keeps_what_is_being_spent() -> None:
    process = Process()
    counter = process.counter(limit(permits=100, window_ms=3_600_000))
    process.want(counter, 50)
    process.exchange()

    for _ in range(40):
        counter.in_hand -= 1
        process.sweep()

    assert counter.in_hand == 10
    assert not process.ledger.has_work(0)


def test_it_lets_a_new_grant_lie_as_long_as_the_first() -> None:
    process = Process()
    counter = process.counter(limit(permits=10, window_ms=3_600_000, lease=False))
    process.want(counter, 1)
    process.exchange()
    process.sweep(IDLE_SWEEPS + 1)
    process.exchange()
    process.want(counter, 1)
    process.exchange()

    process.sweep(IDLE_SWEEPS)

    assert counter.in_hand == 1


def test_it_opens_a_counter_when_it_gives_back() -> None:
    process = Process()
    counter = process.counter(limit(permits=1, window_ms=3_600_000))
    process.want(counter, 1)
    process.exchange()
    assert closed(counter, 1, process.now_ms)

    process.sweep(IDLE_SWEEPS + 1)

    assert not closed(counter, 1, process.now_ms)


def test_it_gives_back_before_it_asks() -> None:
    process = Process()
    counter = process.counter(limit(permits=1, window_ms=3_600_000))
    process.want(counter, 1)
    process.exchange()
    process.ledger.release(counter)
    process.want(counter, 1)

    process.exchange()

    assert counter.in_hand == 1


def test_it_gives_everything_back_at_a_stop() -> None:
    process = Process()
    counters = [process.counter(name=b"pc:{0}:per-ip:60000/1000:%d" % at) for at in range(5)]
    for counter in counters:
        process.want(counter, 3)
    process.exchange()

    process.ledger.release_all()
    process.exchange()

    assert [process.used(counter) for counter in counters] == [0] * 5


def test_it_forgets_who_waits_when_the_store_is_silent_and_keeps_what_is_in_hand() -> None:
    process = Process()
    counter, other = process.counter(), process.counter(name=b"pc:{0}:per-ip:60000/1000:b")
    process.want(counter, 5)
    process.exchange()
    counter.in_hand -= 1
    waiting = [*process.want(counter, 9), *process.want(other, 1, 1)]

    abandoned = process.ledger.abandon()

    assert abandoned == waiting
    assert not process.ledger.has_work(0)
    assert enough(counter, 4, process.now_ms)


def test_it_asks_anew_after_the_store_was_silent() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 7)
    process.ledger.abandon()
    (waiter,) = process.want(counter, 2)

    ((_, ask),) = (batch := process.exchange()).asks

    assert (ask.want, ask.need) == (2, 2)
    assert batch.waiters == [[waiter]]


def test_it_gives_back_what_a_forgotten_counter_had() -> None:
    process = Process(most=80)
    counters = process.ledger.tables(10)[0]
    for at in range(50):
        counter = process.counter(name=b"pc:{0}:per-ip:60000/1000:%d" % at)
        counters.add(str(at), counter)
        process.want(counter, 2)
        process.exchange()

    process.sweep(IDLE_SWEEPS + 1)
    process.exchange()

    assert len(counters) <= 8
    assert len(process.store) == 0


# --- leases -------------------------------------------------------------------


def test_it_asks_for_more_than_it_needs_when_it_is_busy() -> None:
    process = Process()
    counter = process.counter(limit(permits=100_000, window_ms=60_000))
    calls = 0

    for _ in range(2_000):
        process.now_ms += 0.5
        if not enough(counter, 1, process.now_ms):
            process.want(counter, 1)
            process.exchange()
            calls += 1
        counter.in_hand -= 1

    assert calls <= 20


@pytest.mark.parametrize("of", [limit(permits=100_000, lease=False), limit(permits=100_000, block_ms=1_000)])
def test_it_never_leases_where_it_must_not(of: Limit) -> None:
    process = Process()
    counter = process.counter(of)

    for _ in range(50):
        process.want(counter, 1)
        ((_, ask),) = process.exchange().asks
        assert ask.want == 1
        counter.in_hand -= 1


def test_it_leases_nothing_after_a_lease_lay_idle() -> None:
    process = Process()
    counter = process.counter(limit(permits=1_000, window_ms=3_600_000))
    wants = []

    for _ in range(20):
        process.want(counter, 1)
        wants.append(process.exchange().asks[-1][1].want)
        counter.in_hand -= 1
        process.sweep(IDLE_SWEEPS + 1)
        process.exchange()

    assert max(wants) <= 2


@given(
    permits=st.integers(1, 500),
    replicas=st.integers(1, 8),
    turns=st.lists(st.tuples(st.integers(0, 700), st.integers(1, 5), st.integers(0, 20)), max_size=30),
)
def test_it_leases_no_more_than_its_share_of_a_quarter_of_the_room(
    permits: int, replicas: int, turns: list[tuple[int, int, int]]
) -> None:
    process = Process(replicas=replicas)
    counter = process.counter(limit(permits=permits, window_ms=10_000))

    for gap_ms, cost, spent in turns:
        process.now_ms += gap_ms
        room = counter.room
        process.want(counter, cost)
        ((_, ask),) = process.exchange().asks
        assert cost <= ask.want <= cost + room // (4 * replicas)
        counter.in_hand -= min(spent, counter.in_hand)


# --- nothing is lost, nothing is made up --------------------------------------

TURNS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("exchange"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("spend"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("sweep"), st.integers(1, 6), st.just(0)),
        st.tuples(st.just("stop"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(turns=TURNS, replicas=st.sampled_from([1, 3]), permits=st.integers(1, 12))
def test_it_neither_loses_nor_makes_up_a_permit(
    turns: list[tuple[str, int, int]], replicas: int, permits: int
) -> None:
    process = Process(replicas=replicas, most_asks=3)
    of = limit(permits=permits, window_ms=3_600_000)  # a slice outlasts the history
    counters = [process.counter(of, b"pc:{0}:per-ip:3600000/60000:%d" % at) for at in range(3)]
    spent = dict.fromkeys(counters, 0)

    for act, which, cost in turns:
        match act:
            case "want":
                process.want(counters[which], cost)
            case "exchange":
                process.exchange(back_ms=which)
            case "spend" if enough(counters[which], cost, process.now_ms):
                counters[which].in_hand -= cost
                spent[counters[which]] += cost
            case "sweep":
                process.sweep(which)
            case "stop":
                process.ledger.release_all()
    held = {counter: counter.in_hand for counter in counters}
    process.ledger.release_all()
    while process.ledger.has_work(0):
        process.exchange()
    process.ledger.release_all()
    while process.ledger.has_work(0):
        process.exchange()

    for counter in counters:
        assert spent[counter] + held[counter] <= permits
        assert process.used(counter) == spent[counter]


@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 2), st.sampled_from("ab"), st.integers(1, 3)),
        max_size=40,
    ),
    lease=st.booleans(),
)
def test_it_has_given_everything_back_two_seconds_after_the_last_request(
    arrivals: list[tuple[int, int, str, int]], lease: bool
) -> None:
    limits = [
        limit("per-ip", 7, 3_600_000, lease=lease),
        limit("all", 11, 3_600_000, per=["global"], lease=lease),
    ]
    fleet = Fleet(limits, clocks=[Clock(), Clock(1e6), Clock(5e3)])
    at_ms = 0

    for gap_ms, replica, name, cost in arrivals:
        at_ms += gap_ms
        fleet.run_until(at_ms)
        fleet.replicas[replica].check(request({"a": "192.0.2.1", "b": "192.0.2.2"}[name], cost=cost))
    fleet.run_until(at_ms + 2_000)

    rules = policy(limits)
    for address in ("192.0.2.1", "192.0.2.2"):
        for counter, _ in rules.bind(request(address)).charges:
            of = counter.limit
            left = fleet.store.take_one(counter.key, Ask(of.permits, of.window_ms, of.slice_ms, 0, 1)).room
            spent = sum(cost for _, cost in fleet.admitted.get(counter.key, []))
            assert left == of.permits - spent
