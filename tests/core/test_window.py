"""The sliding window's reference: what one counter grants, in milliseconds of an argument."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.window import NEVER, Ask, Counts, Grant, expiry_ms, slice_for, take
from tests.doubles import Admission, busiest

NOW: Final = 1_700_000_000_000
"""A multiple of every slice used here, so that slices begin at NOW."""
WINDOW: Final = 10_000
SLICE: Final = 1_000


def ask(
    permits: int = 10,
    want: int = 1,
    need: int = 1,
    *,
    window_ms: int = WINDOW,
    slice_ms: int = SLICE,
    give_back: int = 0,
    of: Grant | None = None,
    block_ms: int = 0,
) -> Ask:
    """An ask that may give back permits `of` an earlier grant."""
    slice_id, made = (of.slice_id, of.made) if of is not None else (0, 0)
    return Ask(permits, window_ms, slice_ms, want, need, give_back, slice_id, made, block_ms)


class Counted:
    """One counter and its state, asked at a moment after NOW."""

    def __init__(self) -> None:
        self.counts: Counts | None = None
        self.calls = 0

    def take(self, at_ms: int, asked: Ask) -> Grant:
        self.calls += 1
        self.counts, grant = take(self.counts, NOW + at_ms, asked, made=self.calls)
        return grant


# --- the cut ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window_ms", "slices", "slice_ms"),
    [
        (60_000, 60, 1_000),
        (10_000, 60, 167),
        (1_000, 60, 20),
        (1_000, 1, 1_000),
        (2_678_400_000, 1_000, 2_678_400),
    ],
)
def test_it_cuts_a_window_into_slices_of_at_least_20_ms(window_ms: int, slices: int, slice_ms: int) -> None:
    assert slice_for(window_ms, slices) == slice_ms


# --- granting -----------------------------------------------------------------


def test_it_grants_what_is_wanted_while_there_is_room() -> None:
    counter = Counted()

    grants = [counter.take(at_ms, ask(permits=5, want=2)) for at_ms in (0, 10, 20, 30)]

    assert [(grant.granted, grant.room) for grant in grants] == [(2, 3), (2, 1), (1, 0), (0, 0)]


def test_it_grants_at_least_what_is_needed_or_nothing() -> None:
    counter = Counted()
    counter.take(0, ask(permits=5, want=3))

    refused = counter.take(1, ask(permits=5, want=4, need=3))
    granted = counter.take(2, ask(permits=5, want=4, need=2))

    assert (refused.granted, refused.room) == (0, 2)
    assert (granted.granted, granted.room) == (2, 0)


def test_it_only_looks_when_nothing_is_wanted() -> None:
    counter = Counted()
    counter.take(0, ask(permits=5, want=3))
    before = replace(counter.counts) if counter.counts else None

    looked = counter.take(1, ask(permits=5, want=0))

    assert (looked.granted, looked.room) == (0, 2)
    assert counter.counts == before


def test_it_keeps_nothing_of_a_counter_that_has_nothing() -> None:
    counter = Counted()

    grant = counter.take(0, ask(want=0))

    assert counter.counts is None
    assert (grant.room, grant.retry_ms, grant.next_ms) == (10, 0, 0)


def test_it_says_how_long_the_slice_lasts() -> None:
    counter = Counted()

    grants = [counter.take(at_ms, ask()) for at_ms in (0, 1, 999, 1_000)]

    assert [grant.slice_left_ms for grant in grants] == [1_000, 999, 1, 1_000]
    assert grants[2].slice_id + 1 == grants[3].slice_id


def test_it_is_always_closed_without_permits() -> None:
    counter = Counted()

    grant = counter.take(0, ask(permits=0))

    assert grant[:2] == (0, 0)
    assert (grant.retry_ms, grant.next_ms) == (NEVER, NEVER)


def test_it_never_promises_more_than_the_limit() -> None:
    grant = Counted().take(0, ask(permits=3, want=5, need=4))

    assert (grant.granted, grant.retry_ms) == (0, NEVER)


def test_it_admits_by_lowered_permits_at_once_and_by_raised_ones_too() -> None:
    counter = Counted()
    counter.take(0, ask(permits=10, want=8))

    lowered = counter.take(1, ask(permits=5))
    raised = counter.take(2, ask(permits=9, want=5))

    assert (lowered.granted, lowered.room) == (0, 0)
    assert (raised.granted, raised.room) == (1, 0)


# --- giving back --------------------------------------------------------------


def test_it_takes_back_what_was_not_spent() -> None:
    counter = Counted()
    grant = counter.take(0, ask(permits=5, want=5))

    again = counter.take(1, ask(permits=5, want=3, give_back=2, of=grant))

    assert (again.granted, again.room) == (2, 0)


def test_it_takes_back_into_a_slice_of_the_past() -> None:
    counter = Counted()
    grant = counter.take(0, ask(permits=5, want=5))

    again = counter.take(9_500, ask(permits=5, want=5, give_back=2, of=grant))

    assert again.granted == 2


def test_it_never_takes_back_more_than_that_slice_granted() -> None:
    counter = Counted()
    first = counter.take(0, ask(permits=9, want=3))
    counter.take(1_000, ask(permits=9, want=6))

    again = counter.take(2_000, ask(permits=9, want=9, give_back=7, of=first))

    assert again.granted == 3


def test_it_ignores_permits_of_a_slice_that_granted_none() -> None:
    counter = Counted()
    counter.take(0, ask(permits=5, want=5))
    other = counter.take(3_000, ask(permits=5))

    again = counter.take(3_001, ask(permits=5, want=5, give_back=5, of=other))

    assert again.granted == 0


def test_it_ignores_permits_of_a_state_that_was_lost() -> None:
    counter = Counted()
    lost = counter.take(0, ask(permits=5, want=5))
    counter.counts = None
    counter.take(1, ask(permits=5, want=5))

    again = counter.take(2, ask(permits=5, want=5, give_back=5, of=lost))

    assert again.granted == 0


def test_it_ignores_permits_that_were_given_back_already() -> None:
    counter = Counted()
    grant = counter.take(0, ask(permits=5, want=5))
    counter.take(1, ask(permits=5, want=0, give_back=5, of=grant))
    counter.take(2, ask(permits=5, want=5))

    again = counter.take(3, ask(permits=5, want=5, give_back=5, of=grant))

    assert again.granted == 0


# --- blocking -----------------------------------------------------------------


def test_it_stays_closed_for_a_block_after_a_refusal() -> None:
    counter = Counted()
    counter.take(0, ask(block_ms=60_000, want=10))

    refused = counter.take(100, ask(block_ms=60_000))
    inside = counter.take(50_000, ask(block_ms=60_000))
    after = counter.take(60_100, ask(block_ms=60_000))

    assert (refused.granted, refused.room, refused.retry_ms) == (0, 0, 60_000)
    assert (inside.granted, inside.room, inside.retry_ms, inside.next_ms) == (0, 0, 10_100, 10_100)
    assert after.granted == 1


def test_it_blocks_when_somebody_who_waited_got_nothing() -> None:
    counter = Counted()

    partly = counter.take(0, ask(permits=3, want=5, block_ms=60_000))

    assert (partly.granted, partly.room) == (3, 0)
    assert partly.retry_ms == 60_000


def test_it_does_not_prolong_a_block_by_refusals() -> None:
    counter = Counted()
    counter.take(0, ask(permits=0, block_ms=5_000))
    counter.take(0, ask(permits=3, want=5, block_ms=5_000))
    counter.take(4_000, ask(permits=3, block_ms=5_000))

    assert counter.take(5_000, ask(permits=30, block_ms=5_000)).granted == 1


def test_it_takes_back_while_blocked_and_without_blocking() -> None:
    counter = Counted()
    grant = counter.take(0, ask(permits=3, want=5, block_ms=60_000))

    inside = counter.take(1, ask(permits=3, want=0, give_back=3, of=grant, block_ms=60_000))

    assert inside.room == 0
    assert counter.take(60_000, ask(permits=3, want=3, need=3, block_ms=60_000)).granted == 3


def test_it_shortens_a_block_that_was_shortened() -> None:
    counter = Counted()
    counter.take(0, ask(permits=1, want=2, block_ms=600_000))

    assert counter.take(100, ask(permits=9, block_ms=1_000)).retry_ms == 1_000
    assert counter.take(1_100, ask(permits=9, block_ms=1_000)).granted == 1


# --- clocks -------------------------------------------------------------------


def test_it_never_lets_time_run_backwards() -> None:
    counter = Counted()
    first = counter.take(5_000, ask(permits=5, want=4))

    earlier = counter.take(2_500, ask(permits=5, want=5))

    assert earlier.granted == 1
    assert earlier.slice_id == first.slice_id
    assert earlier.slice_left_ms == 1_000


def test_it_survives_a_clock_that_had_jumped_ahead() -> None:
    counter = Counted()
    counter.take(3_600_000, ask(permits=5, want=4))

    back = counter.take(0, ask(permits=5, want=5))
    later = counter.take(WINDOW + SLICE, ask(permits=5, want=5))

    assert back.granted == 1
    assert later.granted == 5


# --- what holds for all histories ---------------------------------------------

GAPS = st.sampled_from([0, 1, 7, 20, 100, 333, 1_000, 2_500, 10_000, 31_000])
MOMENTS = st.lists(
    st.tuples(GAPS, st.integers(1, 6), st.integers(1, 4), st.booleans()), min_size=1, max_size=40
)
"""Gap, want, need, whether half of the last grant goes back."""


def play(
    moments: list[tuple[int, int, int, bool]], permits: int, **more: int
) -> tuple[Counted, int, list[tuple[int, Grant]]]:
    """The counter after this history, the moment of its end, and what it granted when."""
    counter, at_ms = Counted(), 0
    grants: list[tuple[int, Grant]] = []
    for gap, want, need, returning in moments:
        at_ms += gap
        of = grants[-1][1] if grants and returning else None
        asked = ask(permits, want, min(want, need), give_back=of.granted // 2 if of else 0, of=of, **more)
        grants.append((at_ms, counter.take(at_ms, asked)))
    return counter, at_ms, grants


@given(moments=MOMENTS, permits=st.integers(0, 12), slice_ms=st.sampled_from([20, 167, 1_000, 10_000]))
def test_it_never_grants_more_than_the_limit_in_any_interval(
    moments: list[tuple[int, int, int, bool]], permits: int, slice_ms: int
) -> None:
    spent = [(gap, want, need, False) for gap, want, need, _ in moments]

    _, _, grants = play(spent, permits, slice_ms=slice_ms)

    assert busiest([Admission(at_ms, grant.granted) for at_ms, grant in grants], WINDOW) <= permits


@given(moments=MOMENTS, permits=st.integers(1, 12), block_ms=st.sampled_from([0, 0, 700, 25_000]))
def test_it_keeps_counts_that_add_up_and_stay_small(
    moments: list[tuple[int, int, int, bool]], permits: int, block_ms: int
) -> None:
    counter, at_ms, _ = play(moments, permits, block_ms=block_ms)

    counts = counter.counts
    if counts is not None:
        slices = [slice_id for slice_id, _ in counts.pairs]
        assert counts.total == sum(held for _, held in counts.pairs)
        assert all(held > 0 for _, held in counts.pairs)
        assert slices == sorted(set(slices))
        assert len(slices) <= WINDOW // SLICE + 1
        assert 0 < expiry_ms(counts, NOW + at_ms, ask(block_ms=block_ms)) <= WINDOW + SLICE + block_ms


@given(
    moments=MOMENTS,
    permits=st.integers(1, 12),
    need=st.integers(1, 12),
    block_ms=st.sampled_from([0, 0, 700, 25_000]),
    slice_ms=st.sampled_from([20, 167, 1_000]),
)
def test_it_refuses_just_before_its_retry_and_admits_at_it(
    moments: list[tuple[int, int, int, bool]], permits: int, need: int, block_ms: int, slice_ms: int
) -> None:
    counter, at_ms, _ = play(moments, permits, block_ms=block_ms, slice_ms=slice_ms)
    look = ask(permits, 0, need, block_ms=block_ms, slice_ms=slice_ms)
    retry_ms = counter.take(at_ms, look).retry_ms

    if need > permits:
        assert retry_ms == NEVER
        return
    if retry_ms:
        assert counter.take(at_ms + retry_ms - 1, look).retry_ms == 1
        assert not deepcopy(counter).take(at_ms + retry_ms - 1, look._replace(want=need)).granted
    assert counter.take(at_ms + retry_ms, look._replace(want=need)).granted == need


@given(moments=MOMENTS, permits=st.integers(1, 12), slice_ms=st.sampled_from([20, 167, 1_000]))
def test_it_has_the_same_room_until_it_said_that_it_grows(
    moments: list[tuple[int, int, int, bool]], permits: int, slice_ms: int
) -> None:
    counter, at_ms, _ = play(moments, permits, slice_ms=slice_ms)
    look = ask(permits, 0, slice_ms=slice_ms)
    now = counter.take(at_ms, look)

    if now.next_ms == 0:
        assert now.room == permits
        return
    assert counter.take(at_ms + now.next_ms - 1, look).room == now.room
    assert counter.take(at_ms + now.next_ms, look).room > now.room
