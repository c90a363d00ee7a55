"""What a process does not spend goes back, in time and once: no permit is lost, and none is made up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.ledger import IDLE_SWEEPS, closed, enough
from sidecar.core.window import Ask
from tests.core.process import Process
from tests.doubles import Clock, Fleet, limit, policy, request


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
    assert closed(counter, 2, process.now_ms)

    process.sweep(IDLE_SWEEPS + 1)

    assert not closed(counter, 1, process.now_ms)
    assert not closed(counter, 2, process.now_ms)


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
