"""The decision while the store is silent: each limit by its own outage policy, all of them or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from sidecar.core.bound import Bound
from sidecar.core.decide import judge_alone
from sidecar.core.ledger import Counter
from sidecar.core.model import Limit, Outage, Reason, Source, Verdict
from sidecar.core.window import Ask, Grant
from sidecar.store.memory import MemoryStore
from tests.core.process import NOW, bind, close, hold
from tests.doubles import EPOCH_MS, limit, policy, request

PER_IP: Final = limit("per-ip", 10, 60_000)


class Alone:
    """What one process has left of each limit in an outage, with a clock that the test sets."""

    def __init__(self, share: Callable[[Limit], int] = lambda of: of.permits) -> None:
        self.now_ms = NOW
        self._share = share
        self._store = MemoryStore(clock_ms=lambda: EPOCH_MS + int(self.now_ms))

    def take(self, counter: Counter, want: int, need: int) -> Grant:
        of = counter.limit
        asked = Ask(self._share(of), of.window_ms, of.slice_ms, want, need, block_ms=of.block_ms)
        return self._store.take_one(counter.key, asked)

    def judge(self, bound: Bound) -> Verdict:
        return judge_alone(bound, self.now_ms, self.take)


def test_it_enforces_its_share_alone() -> None:
    bound, alone = bind(PER_IP), Alone(lambda of: of.permits // 4)

    verdicts = [alone.judge(bound) for _ in range(4)]

    assert [verdict.reason for verdict in verdicts] == [Reason.OK] * 2 + [Reason.RATE_LIMITED] * 2
    assert {verdict.source for verdict in verdicts} == {Source.OUTAGE}
    assert verdicts[-1].retry_after_s == 61
    assert verdicts[-1].violated == ("per-ip",)
    assert [verdict.quotas[0].remaining for verdict in verdicts] == [1, 0, 0, 0]


def test_it_admits_without_bound_where_the_limit_says_open() -> None:
    bound, alone = bind(limit(permits=1, outage=Outage.OPEN)), Alone()

    assert all(alone.judge(bound).allowed for _ in range(50))


def test_it_refuses_with_503_where_the_limit_says_closed() -> None:
    verdict = Alone().judge(bind(limit(permits=100, outage=Outage.CLOSED)))

    assert (verdict.reason, verdict.status) == (Reason.STORE_UNAVAILABLE, 503)
    assert verdict.violated == ("per-ip",)
    assert verdict.retry_after_s == 1


def test_it_spends_what_is_in_hand_first() -> None:
    bound, alone = bind(limit(permits=3, outage=Outage.CLOSED)), Alone()
    hold(bound.charges[0][0], 2)

    assert [alone.judge(bound).status for _ in range(3)] == [200, 200, 503]


def test_it_still_refuses_what_the_store_closed() -> None:
    bound, alone = bind(PER_IP), Alone()
    close(bound.charges[0][0], until_ms=NOW + 1_500)

    verdict = alone.judge(bound)
    alone.now_ms += 1_500

    assert (verdict.reason, verdict.retry_after_s, verdict.source) == (Reason.RATE_LIMITED, 2, Source.OUTAGE)
    assert alone.judge(bound).allowed


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_it_charges_all_limits_or_none_alone(order: list[int]) -> None:
    kinds = [
        limit("wide", 5, 60_000, per=["global"]),
        limit("narrow", 2, 60_000),
        limit("loose", 1, 60_000, outage=Outage.OPEN),
    ]
    limits = [kinds[at] for at in order]
    alone, rules = Alone(), policy(limits)

    first = [alone.judge(rules.bind(request("192.0.2.1"))).allowed for _ in range(10)]
    other = [alone.judge(rules.bind(request("192.0.2.2"))).allowed for _ in range(10)]

    assert (sum(first), sum(other)) == (2, 2)


def test_it_keeps_permits_in_hand_when_another_limit_refuses_alone() -> None:
    bound, alone = bind(PER_IP, limit("all", 0, per=["global"])), Alone()
    hold(bound.charges[0][0], 3)

    assert not alone.judge(bound).allowed
    assert bound.charges[0][0].in_hand == 3


def test_it_charges_no_share_when_another_limit_is_closed_alone() -> None:
    share = limit("mine", 1, 60_000)
    alone = Alone()

    refused = alone.judge(bind(share, limit("strict", outage=Outage.CLOSED)))

    assert refused.reason is Reason.STORE_UNAVAILABLE
    assert alone.judge(bind(share)).allowed


def test_it_waits_for_the_last_limit_alone() -> None:
    bound, alone = bind(limit("a", 1, 10_000), limit("b", 1, 60_000, per=["global"])), Alone()
    alone.judge(bound)

    verdict = alone.judge(bound)

    assert verdict.violated == ("a", "b")
    assert verdict.retry_after_s == 61


def test_it_knows_no_retry_alone_where_its_share_is_nothing() -> None:
    verdict = Alone(lambda _: 0).judge(bind(PER_IP))

    assert (verdict.reason, verdict.retry_after_s) == (Reason.RATE_LIMITED, None)


def test_it_blocks_alone() -> None:
    bound, alone = bind(limit(permits=1, window_ms=1_000, block_ms=30_000)), Alone()
    alone.judge(bound)

    refused = alone.judge(bound)
    alone.now_ms += 29_999

    assert refused.retry_after_s == 30
    assert not alone.judge(bound).allowed
    alone.now_ms += 1
    assert alone.judge(bound).allowed
