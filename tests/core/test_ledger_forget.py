"""What ends when a counter is forgotten, and what a batch under way may still bring."""

from __future__ import annotations

from sidecar.core.ledger import closed, enough
from tests.core.process import LIMIT, Process, close, hold
from tests.doubles import limit


def test_it_gives_back_what_is_in_hand() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 4)
    process.exchange()
    assert counter.in_hand == 4

    process.ledger.forget(counter)
    process.exchange()

    assert (counter.in_hand, process.used(counter)) == (0, 0)


def test_it_forgets_until_when_a_counter_is_closed() -> None:
    process = Process()
    counter = process.counter()
    hold(counter, 0, room=5)
    close(counter, until_ms=1e9, cost=3)

    process.ledger.forget(counter)

    assert not closed(counter, 9, 0.0)
    assert (counter.closed_cost, counter.retry_at_ms, counter.grows_at_ms, counter.room) == (1, 0.0, 0.0, 0)


def test_it_lets_nobody_spend_what_a_batch_under_way_brings_and_gives_it_back() -> None:
    process = Process()
    counter = process.counter()
    (waiter,) = process.want(counter, 4)
    batch = process.ledger.collect(0, process.now_ms)
    grants = [process.store.take_one(key, ask) for key, ask in batch.asks]

    process.ledger.forget(counter)
    process.ledger.apply(batch, grants, process.now_ms, process.now_ms)
    process.ledger.settle(batch)

    assert not enough(counter, 1, process.now_ms)
    assert batch.waiters == [[waiter]], "who waits is judged again"
    process.exchange()
    assert process.used(counter) == 0


def test_it_does_not_learn_from_a_batch_under_way_that_a_counter_is_closed() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 10)
    process.exchange()
    counter.in_hand = 0
    process.want(counter, 1)
    batch = process.ledger.collect(0, process.now_ms)
    grants = [process.store.take_one(key, ask) for key, ask in batch.asks]
    assert grants[0].retry_ms > 0

    process.ledger.forget(counter)
    process.ledger.apply(batch, grants, process.now_ms, process.now_ms)
    process.ledger.settle(batch)

    assert not closed(counter, 1, process.now_ms)


def test_it_answers_who_came_since_from_the_next_batch() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 1)
    batch = process.ledger.collect(0, process.now_ms)
    grants = [process.store.take_one(key, ask) for key, ask in batch.asks]
    (before,) = process.want(counter, 1)

    process.ledger.forget(counter)
    (after,) = process.want(counter, 2)
    process.ledger.apply(batch, grants, process.now_ms, process.now_ms)
    process.ledger.settle(batch)
    following = process.ledger.collect(0, process.now_ms)

    assert following.waiters[-1] == [before, after]
    assert [(ask.want, ask.give_back) for _, ask in following.asks] == [(0, 1), (3, 0)]


def test_it_learns_from_the_next_batch_as_ever() -> None:
    process = Process()
    counter = process.counter()
    process.want(counter, 1)
    process.exchange()
    process.ledger.forget(counter)

    process.want(counter, 2)
    process.exchange()

    assert counter.in_hand == 2


def test_it_leaves_the_other_counters_of_a_batch_alone() -> None:
    process = Process()
    counters = [process.counter(LIMIT, b"pc:{0}:per-ip:60000/1000:%d" % at) for at in range(3)]
    for counter in counters:
        process.want(counter, 2)
    batch = process.ledger.collect(0, process.now_ms)
    grants = [process.store.take_one(key, ask) for key, ask in batch.asks]

    process.ledger.forget(counters[1])
    process.ledger.forget(counters[1])
    process.ledger.apply(batch, grants, process.now_ms, process.now_ms)
    process.ledger.settle(batch)

    assert [counter.in_hand for counter in counters] == [2, 0, 2]


def test_it_asks_for_no_lease_by_what_was_known_before() -> None:
    process = Process()
    counter = process.counter(limit(permits=1_000, window_ms=60_000))
    hold(counter, 0, room=900)
    counter.lease = 200

    process.ledger.forget(counter)
    process.want(counter, 1)
    batch = process.ledger.collect(0, process.now_ms)

    assert [ask.want for _, ask in batch.asks] == [1]
