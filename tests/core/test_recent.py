"""The table of what was asked for lately: bounded whatever is asked, and it keeps what is in use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.recent import Recent


@given(most=st.integers(2, 12), asked=st.lists(st.integers(0, 30), max_size=200))
def test_it_never_holds_more_than_its_bound(most: int, asked: list[int]) -> None:
    table = Recent[int, int](most)

    for key in asked:
        if table.get(key) is None:
            table.add(key, key)
        assert len(table) <= most
        assert table.get(key) == key


def test_it_stays_bounded_under_a_flood() -> None:
    table = Recent[int, int](64)

    for key in range(100_000):
        table.add(key, key)

    assert len(table) <= 64


def test_it_keeps_what_is_asked_for_in_a_flood() -> None:
    table = Recent[int, str](64)
    table.add(-1, "in use")

    for key in range(10_000):
        table.add(key, "seen once")
        if key % 8 == 0:
            assert table.get(-1) == "in use"


def test_it_shows_everything_that_it_holds() -> None:
    table = Recent[int, int](8)
    for key in range(3):
        table.add(key, key * key)

    assert sorted(table) == [0, 1, 4]
