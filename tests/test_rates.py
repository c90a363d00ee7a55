"""Shares: as many as were asked for, whatever the chances. What a bucket lets through, the log's tests say."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.rates import Bucket, Sample


@pytest.mark.parametrize(("share", "chosen"), [(0.0, 0), (1.0, 1_000), (1e-18, 0)])
def test_the_ends_of_a_share_are_exact(share: float, chosen: int) -> None:
    sample = Sample(share, chance=random.Random(1).random)

    assert sum(sample.take() for _ in range(1_000)) == chosen


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.9])
def test_a_share_is_what_it_says(share: float) -> None:
    sample = Sample(share, chance=random.Random(2).random)

    chosen = sum(sample.take() for _ in range(200_000))

    assert abs(chosen - 200_000 * share) < 5 * (200_000 * share * (1 - share)) ** 0.5


@given(st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_any_share_and_any_chance_choose_or_not(share: float, chance: float) -> None:
    sample = Sample(share, chance=lambda: chance)

    assert sample.take() in {True, False}


@given(st.lists(st.floats(0, 3), max_size=200), st.floats(0.1, 50))
def test_a_bucket_lets_no_more_through_than_its_rate_and_one_second_s_worth(
    pauses: list[float], rate: float
) -> None:
    bucket = Bucket(rate)
    now_s = 0.0
    taken = 0

    for pause_s in pauses:
        now_s += pause_s
        taken += bucket.take(now_s)

    assert taken <= rate * (now_s + 1) + 1
