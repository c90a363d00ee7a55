"""What a process holds of the fleet's counters: asked for together, spent in time, never more than others can spare."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.ledger import FOREVER, IDLE_SWEEPS, closed, enough
from sidecar.core.model import Limit
from sidecar.core.window import Grant
from tests.core.process import Process, Waiting
from tests.doubles import limit

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


@given(
    left_ms=st.integers(1, 44_640_000),
    out_ms=st.floats(0, 5_000),
    back_ms=st.floats(0, 5_000),
    rate=st.floats(0.9995, 1.0005),
    offset_ms=st.floats(-1e9, 1e9),
)
def test_it_spends_no_permit_after_the_slice_of_a_store_whose_clock_is_another(
    left_ms: int, out_ms: float, back_ms: float, rate: float, offset_ms: float
) -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 1)
    granted_at_ms = 1e7

    def clock_ms(true_ms: float) -> float:
        return offset_ms + rate * true_ms

    sent_ms, come_ms = clock_ms(granted_at_ms - out_ms), clock_ms(granted_at_ms + back_ms)
    batch = process.ledger.collect(0, sent_ms)
    process.ledger.apply(batch, [Grant(1, 9, 1, left_ms, 0, 1, 1)], sent_ms, come_ms)

    assert (counter.lapse_ms - offset_ms) / rate <= granted_at_ms + left_ms


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
