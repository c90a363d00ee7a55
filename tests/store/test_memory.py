"""The store in memory: the contract of every store, and the bounds of this one."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from sidecar.core.window import Ask, Grant
from sidecar.store import CounterAsk
from sidecar.store.memory import MemoryStore

NOW: Final = 1_700_000_000_000


class Store(MemoryStore):
    """With a clock that the test sets."""

    def __init__(self, *, most: int = 65_536) -> None:
        self.now_ms = NOW
        super().__init__(clock_ms=lambda: self.now_ms, most=most)


def ask(permits: int = 3, want: int = 1, *, window_ms: int = 60_000, block_ms: int = 0) -> Ask:
    return Ask(permits, window_ms, 1_000, want, 1, block_ms=block_ms)


def key(subject: str, name: str = "per-ip") -> bytes:
    """The counter's name as the policy makes it."""
    return f"pc:{{0}}:{name}:60000/1000:{subject}".encode()


def test_it_serves_a_batch_in_the_order_of_its_asks() -> None:
    batch = [CounterAsk(key(subject), ask()) for subject in ("a", "b", "a", "a", "a")]

    grants = asyncio.run(Store().take(batch))

    assert [grant.granted for grant in grants] == [1, 1, 1, 1, 0]


def test_it_lets_the_second_ask_of_a_counter_see_the_first() -> None:
    store = Store()
    first = store.take_one(key("a"), ask(want=3))
    returned = ask(want=0)._replace(give_back=2, give_back_slice=first.slice_id, give_back_made=first.made)

    grants = asyncio.run(store.take([CounterAsk(key("a"), returned), CounterAsk(key("a"), ask(want=3))]))

    assert [grant.granted for grant in grants] == [0, 2]


def test_it_forgets_a_counter_when_nothing_of_it_counts_any_more() -> None:
    store = Store()
    store.take_one(key("a"), ask(want=3))
    store.now_ms += 61_000

    assert key("a") not in store
    assert store.take_one(key("a"), ask(want=0)).room == 3
    assert len(store) == 0


def test_it_remembers_a_block_to_its_end() -> None:
    store = Store()
    store.take_one(key("a"), ask(want=4, block_ms=3_600_000))
    store.now_ms += 3_599_999

    assert store.take_one(key("a"), ask(block_ms=3_600_000)).granted == 0
    store.now_ms += 1
    assert store.take_one(key("a"), ask(block_ms=3_600_000)).granted == 1


def test_it_gives_new_subjects_one_counter_when_it_is_full() -> None:
    store = Store(most=2)
    known = [store.take_one(key(subject), ask()).granted for subject in ("a", "b")]

    new = [store.take_one(key(f"new-{at}"), ask()).granted for at in range(5)]
    again = [store.take_one(key(subject), ask()).granted for subject in ("a", "b")]

    assert (known, new, again) == ([1, 1], [1, 1, 1, 0, 0], [1, 1])


def test_it_shares_one_counter_for_each_limit() -> None:
    store = Store(most=1)
    store.take_one(key("a"), ask())

    spent = [store.take_one(key(f"new-{at}", "per-ip"), ask()).granted for at in range(4)]
    other = store.take_one(key("new", "per-key"), ask()).granted

    assert (spent, other) == ([1, 1, 1, 0], 1)


@pytest.mark.parametrize("subject", ["192.0.2.{}", "2001:db8:{:x}::/64", "host:{}|a/b:{}", "{}"])
def test_it_stays_bounded_whatever_the_subjects_look_like(subject: str) -> None:
    store = Store(most=8)

    for at in range(3_000):
        store.take_one(key(subject.format(at, at)), ask())

    assert len(store) == 8 + 1


def test_it_makes_room_when_counters_expire_whatever_stands_before_them() -> None:
    store = Store(most=32)
    for at in range(16):
        store.take_one(key(f"long-{at}", "per-hour"), ask(window_ms=3_600_000))
    for at in range(16):
        store.take_one(key(f"short-{at}"), ask())
    store.now_ms += 61_000

    apart: list[Grant] = [store.take_one(key(f"new-{at}"), ask(permits=1)) for at in range(16)]

    assert sum(grant.granted for grant in apart) >= 15
    assert len(store) <= 33
