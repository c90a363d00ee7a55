"""A replica's share of a limit: looking takes nothing, and sees what taking would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.ledger import Counter
from sidecar.share import Share
from tests.lanes import limit

NOW_MS = 1_000_000


class Clock:
    ms = NOW_MS


def share_of(clock: Clock, *, replicas: int = 1, rank: int = 0) -> Share:
    share = Share(replicas=lambda: replicas, clock_ms=lambda: clock.ms, most=100)
    share.rank = rank
    return share


def counter(permits: int = 5, *, left: int = 0, block_ms: int = 0) -> Counter:
    rule = limit(permits, window_ms=1_000, block_ms=block_ms)
    made = Counter(rule, permits, b"pc:{0}:per-ip:1000/20:192.0.2.1", 0)
    made.left, made.lapse_ms = left, NOW_MS
    return made


def test_it_takes_nothing_when_it_looks() -> None:
    share, of = share_of(Clock()), counter(2)

    looked = [share.look(of, 1).retry_ms for _ in range(10)]
    taken = [share.take(of, 1, 1).granted for _ in range(3)]

    assert looked == [0] * 10
    assert taken == [1, 1, 0]
    assert share.look(of, 1).retry_ms > 0


def test_it_blocks_nobody_when_it_looks() -> None:
    clock = Clock()
    share, of = share_of(clock), counter(1, block_ms=60_000)
    share.take(of, 1, 1)

    share.look(of, 1)
    clock.ms += 1_100

    assert share.look(of, 1).retry_ms == 0


def test_it_divides_a_limit_among_replicas() -> None:
    room = [share_of(Clock(), replicas=3, rank=rank).look(counter(5), 1).room for rank in range(3)]

    assert room == [2, 2, 1]


@given(
    permits=st.integers(0, 6),
    left=st.integers(0, 8),
    events=st.lists(
        st.tuples(st.booleans(), st.integers(1, 3), st.sampled_from([0, 5, 300, 1_100])), max_size=15
    ),
)
def test_it_sees_what_taking_finds(permits: int, left: int, events: list[tuple[bool, int, int]]) -> None:
    """What was granted ahead counts for both."""
    clock = Clock()
    share, of = share_of(clock), counter(permits, left=left)

    for take, need, ms in events:
        clock.ms += ms
        before = share.look(of, need)
        if take:
            grant = share.take(of, need, need)
            assert (grant.granted == need) == (before.retry_ms == 0)
