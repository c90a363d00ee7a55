"""The decision: its order, who is charged, and what a refusal says."""

from __future__ import annotations

from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.bound import Bound
from sidecar.core.decide import judge, lacking
from sidecar.core.model import Filter, Mode, Quota, Reason, Source, Verdict
from sidecar.core.window import Ask
from tests.core.process import NOW, bind, close, hold
from tests.doubles import Asked, Clock, Fleet, limit, policy, request

PER_IP: Final = limit("per-ip", 10, 60_000)
PER_ALL: Final = limit("all", 20, 10_000, per=["global"])


def judged(bound: Bound, *, attack: bool = False, source: Source = Source.MEMORY) -> Verdict:
    verdict = judge(bound, attack, NOW, source)
    assert verdict is not None
    return verdict


# --- the order ----------------------------------------------------------------


def test_it_allows_what_nothing_concerns() -> None:
    verdict = judged(bind())

    assert (verdict.reason, verdict.status, verdict.allowed) == (Reason.OK, 200, True)
    assert (verdict.quotas, verdict.ratelimit, verdict.policy_header) == ((), b"", b"")


def test_it_refuses_everybody_in_attack_mode() -> None:
    bound = bind(PER_IP, deny=["203.0.113.0/24"])

    verdict = judged(bound, attack=True)

    assert (verdict.reason, verdict.status, verdict.retry_after_s) == (Reason.ATTACK_MODE, 503, 60)


def test_it_lets_attack_mode_pass_whom_it_passes() -> None:
    bound = bind(passes=["203.0.113.0/24"])

    assert judged(bound, attack=True).allowed


def test_it_refuses_what_it_cannot_read_before_attack_mode() -> None:
    bound = policy().bind(request(malformed="two hosts"))

    verdict = judged(bound, attack=True)

    assert (verdict.reason, verdict.status) == (Reason.MALFORMED, 400)


def test_it_still_denies_whom_attack_mode_passes() -> None:
    bound = bind(passes=["203.0.113.0/24"], deny=["203.0.113.9"])

    assert judged(bound, attack=True).reason is Reason.ADDRESS_DENIED


def test_it_charges_nobody_whom_a_filter_refuses() -> None:
    fleet = Fleet([PER_IP])
    rules = policy([PER_IP], [Filter("no", deny=True)], ledger=fleet.replicas[0].ledger)
    bound = rules.bind(request())

    assert judged(bound).reason is Reason.PATH
    assert bound.charges == ()


def test_it_limits_nobody_who_is_exempt() -> None:
    bound = bind(PER_IP, exempt=["203.0.113.9"])

    verdict = judged(bound)

    assert (verdict.reason, verdict.status, verdict.quotas) == (Reason.EXEMPT, 200, ())


# --- limits -------------------------------------------------------------------


def test_it_waits_while_permits_are_lacking() -> None:
    bound = bind(PER_IP, PER_ALL)
    (per_ip, _), (per_all, _) = bound.charges
    hold(per_all, 1)

    assert judge(bound, False, NOW, Source.MEMORY) is None
    assert lacking(bound, NOW) == [(per_ip, 1)]
    assert per_all.in_hand == 1


def test_it_spends_of_every_limit_when_all_admit() -> None:
    bound = bind(PER_IP, PER_ALL)
    for counter, _ in bound.charges:
        hold(counter, 3)

    assert judged(bound).allowed
    assert [counter.in_hand for counter, _ in bound.charges] == [2, 2]


def test_it_spends_nothing_after_the_slice() -> None:
    bound = bind(PER_IP)
    hold(bound.charges[0][0], 3, lapse_ms=NOW)

    assert judge(bound, False, NOW, Source.MEMORY) is None


def test_it_refuses_by_one_and_charges_no_other() -> None:
    bound = bind(PER_IP, PER_ALL)
    (per_ip, _), (per_all, _) = bound.charges
    hold(per_ip, 3)
    close(per_all, until_ms=NOW + 1_200)

    verdict = judged(bound)

    assert (verdict.reason, verdict.status, verdict.rule) == (Reason.RATE_LIMITED, 429, "all")
    assert verdict.violated == ("all",)
    assert verdict.retry_after_s == 2
    assert per_ip.in_hand == 3


def test_it_asks_no_other_limit_when_one_is_known_to_be_closed() -> None:
    bound = bind(PER_IP, PER_ALL)
    close(bound.charges[1][0], until_ms=NOW + 1_200)

    assert judged(bound).violated == ("all",)


def test_it_names_every_limit_that_refused_and_waits_for_the_last() -> None:
    bound = bind(PER_IP, PER_ALL)
    close(bound.charges[0][0], until_ms=NOW + 30_001)
    close(bound.charges[1][0], until_ms=NOW + 400)

    verdict = judged(bound)

    assert verdict.violated == ("per-ip", "all")
    assert verdict.retry_after_s == 31


def test_it_knows_no_retry_where_waiting_does_not_help() -> None:
    bound = bind(limit("never", 0))
    close(bound.charges[0][0], until_ms=float("inf"))

    assert judged(bound).retry_after_s is None


def test_it_reports_what_is_left_in_the_order_of_the_policy() -> None:
    bound = bind(PER_IP, PER_ALL)
    hold(bound.charges[0][0], 3, room=4)
    hold(bound.charges[1][0], 1, room=0)

    verdict = judged(bound, source=Source.STORE)

    assert verdict.quotas == (Quota(PER_IP, 6, 3), Quota(PER_ALL, 0, 3))
    assert verdict.ratelimit == b'"per-ip";r=6;t=3, "all";r=0;t=3'
    assert verdict.policy_header == b'"per-ip";q=10;w=60, "all";q=20;w=10'
    assert verdict.source is Source.STORE


def test_it_never_tells_to_come_back_before_there_is_more() -> None:
    bound = bind(PER_IP)
    close(bound.charges[0][0], until_ms=NOW + 1)

    verdict = judged(bound)

    assert verdict.retry_after_s is not None
    assert verdict.retry_after_s >= verdict.quotas[0].reset_s == 1


# --- shadow limits ------------------------------------------------------------

SHADOW: Final = limit("watch", 5, mode=Mode.SHADOW)


def test_it_never_refuses_by_a_shadow_limit() -> None:
    bound = bind(SHADOW)
    close(bound.shadow_charges[0][0], until_ms=NOW + 1_000)

    verdict = judged(bound)

    assert verdict.allowed
    assert verdict.shadow == ("watch",)
    assert verdict.quotas == ()


def test_it_charges_a_shadow_limit_that_would_admit() -> None:
    bound = bind(SHADOW)
    hold(bound.shadow_charges[0][0], 2)

    assert judged(bound).shadow == ()
    assert bound.shadow_charges[0][0].in_hand == 1


def test_it_charges_no_shadow_limit_for_what_an_enforced_one_refuses() -> None:
    bound = bind(PER_IP, SHADOW)
    hold(bound.shadow_charges[0][0], 2)
    close(bound.charges[0][0], until_ms=NOW + 1_000)

    assert not judged(bound).allowed
    assert bound.shadow_charges[0][0].in_hand == 2


def test_it_charges_no_shadow_limit_while_it_waits() -> None:
    bound = bind(PER_IP, SHADOW, limit("watch-too", 5, mode=Mode.SHADOW))
    hold(bound.shadow_charges[0][0], 2)

    assert judge(bound, False, NOW, Source.MEMORY) is None
    assert bound.shadow_charges[0][0].in_hand == 2
    assert [counter.limit.name for counter, _ in lacking(bound, NOW)] == ["per-ip", "watch-too"]


# --- several limits, in virtual time ------------------------------------------


def test_it_leaves_a_permit_that_another_limit_refused_to_another_replica() -> None:
    mine, shared = limit("mine", 1, 3_600_000), limit("shared", 2, 3_600_000, per=["global"])
    fleet = Fleet([mine, shared], clocks=[Clock(), Clock()])
    fleet.ask(request("192.0.2.1"), replica=1)
    refused = fleet.ask(request("192.0.2.1"), replica=0)  # by `mine`; `shared` had one left and gave it

    fleet.run_until(fleet.now_ms + 1_500)

    assert refused.verdict is not None
    assert refused.verdict.violated == ("mine",)
    assert fleet.ask(request("192.0.2.2"), replica=1).allowed


@settings(max_examples=150)
@given(
    permits=st.lists(st.integers(0, 6), min_size=2, max_size=4),
    order=st.permutations(range(4)),
    arrivals=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2), st.integers(0, 3)), max_size=40),
)
def test_it_charges_every_limit_for_what_was_admitted_and_for_nothing_else(
    permits: list[int], order: list[int], arrivals: list[tuple[int, int, int]]
) -> None:
    dimensions = [["ip"], ["global"], ["host"], ["route"]]
    limits = [
        limit(f"l{at}", permits[at], 3_600_000, per=dimensions[at]) for at in order if at < len(permits)
    ]
    fleet = Fleet(limits, clocks=[Clock(), Clock(3e7), Clock(1e3)])
    asked: list[Asked] = []

    for gap_ms, replica, who in arrivals:
        fleet.run_until(fleet.now_ms + gap_ms)
        asker = request(f"192.0.2.{who}", host=f"h{who % 2}.example")
        asked.append(fleet.replicas[replica].check(asker))
    fleet.run_until(fleet.now_ms + 2_500)

    admitted = [one for one in asked if one.allowed]
    charged = {counter.key: counter.limit for one in asked for counter, _ in one.bound.charges}
    for key, of in charged.items():
        spent = sum(key == counter.key for one in admitted for counter, _ in one.bound.charges)
        room = fleet.store.take_one(key, Ask(of.permits, of.window_ms, of.slice_ms, 0, 1)).room
        assert room == of.permits - spent


# --- Retry-After, in virtual time ---------------------------------------------


CASES = st.lists(
    st.tuples(
        st.integers(2, 8),  # permits
        st.sampled_from([1_000, 2_500, 7_000, 60_000]),  # window_ms
        st.sampled_from([0, 0, 0, 9_300]),  # block_ms
        st.booleans(),  # lease
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150)
@given(
    cases=CASES,
    slices=st.sampled_from([3, 7, 60]),
    gaps_ms=st.lists(st.integers(0, 900), min_size=1, max_size=30),
    cost=st.integers(1, 2),
    replicas=st.integers(1, 3),
)
def test_it_refuses_just_before_its_retry_after_and_admits_at_it(
    cases: list[tuple[int, int, int, bool]], slices: int, gaps_ms: list[int], cost: int, replicas: int
) -> None:
    limits = [
        limit(f"l{at}", permits, window_ms, slices=slices, block_ms=block_ms, lease=lease)
        for at, (permits, window_ms, block_ms, lease) in enumerate(cases)
    ]
    # A replica that did not see another limit close cannot wait for it.
    replicas = replicas if len(limits) == 1 else 1

    def live() -> tuple[Fleet, Asked]:
        """Traffic until the first refusal; the same every time."""
        fleet = Fleet(limits, clocks=[Clock()] * replicas)
        for at, gap_ms in enumerate([*gaps_ms, *[0] * 20]):
            fleet.run_until(fleet.now_ms + gap_ms)
            asked = fleet.ask(request(cost=cost), replica=at % replicas)
            if not asked.allowed:
                return fleet, asked
        raise AssertionError("twenty requests at once were admitted")

    fleet, refused = live()
    assert refused.verdict is not None
    wait_s = refused.verdict.retry_after_s
    assert wait_s is not None

    fleet.run_until(refused.answered_ms + wait_s * 1_000)
    assert fleet.ask(request(cost=cost)).allowed
    if wait_s > 1 and replicas == 1:  # another one may give back before
        fleet, refused = live()
        fleet.run_until(refused.answered_ms + (wait_s - 1) * 1_000 - 1)
        assert not fleet.ask(request(cost=cost)).allowed


def test_it_answers_a_refusal_from_memory_until_the_counter_opens() -> None:
    fleet = Fleet([limit(permits=1, window_ms=10_000)])
    fleet.ask(request())
    fleet.ask(request())
    calls = fleet.store_calls

    verdicts = [fleet.ask(request()).verdict for _ in range(500)]
    later = fleet.now_ms + 10_500
    fleet.run_until(later)

    assert {verdict.reason for verdict in verdicts if verdict} == {Reason.RATE_LIMITED}
    assert fleet.store_calls == calls
    assert fleet.ask(request()).allowed
