"""The trial: what a credential that is not proved yet may cost, and in which order that is found out."""

from __future__ import annotations

from typing import Final

import pytest

from sidecar.core.bound import UNPROVED, Bound
from sidecar.core.ledger import FOREVER, Counter
from sidecar.core.model import Counts, Filter, Limit, Match, Mode, Request, Source
from sidecar.core.policy import Policy
from sidecar.core.principals import Principal
from sidecar.core.proofs import Proofs
from sidecar.core.tokens import Trust
from sidecar.core.trial import Tried, bind, judge_trial, judge_trial_alone
from sidecar.core.window import NEVER, Grant
from tests.doubles import HASH_KEY, limit, policy, presented, registered, request

NOW_MS: Final = 1_000.0
WALL_MS: Final = 1_700_000_000_000


def proofs(*known: str, hash_key: bytes | None = HASH_KEY) -> Proofs:
    it = Proofs(digest_key=b"d" * 32, hash_key=hash_key, roles={}, trust=Trust(None, (), {}))
    it.ask(known)
    it.answer({key_id: registered(key_id) for key_id in known})
    return it


def guessing(permits: int = 3, *, name: str = "guessing", mode: Mode = Mode.ENFORCE) -> Limit:
    return limit(name, permits, counts=Counts.CREDENTIAL_FAILURES, mode=mode)


def holding(bound: Bound, permits: int) -> list[Counter]:
    """The counters of failures, with so many permits in hand."""
    counters = [counter for counter, _ in (*bound.charges, *bound.shadow_charges)]
    for counter in counters:
        counter.in_hand, counter.lapse_ms = permits, FOREVER
    return counters


def tried(
    rules: Policy, it: Proofs, asker: Request, *, attack: bool = False, hold: int | None = None
) -> Tried:
    trial = rules.bind(asker, UNPROVED)
    if hold is not None:
        holding(trial, hold)
    return judge_trial(
        trial, asker, it, attack=attack, waited=False, now_ms=NOW_MS, wall_ms=WALL_MS, source=Source.MEMORY
    )


def code(found: Tried) -> str:
    return (
        found.verdict.reason.code
        if found.verdict
        else f"missing {found.missing if isinstance(found.missing, str) else found.missing.value}"
    )


@pytest.mark.parametrize(
    ("key", "hold", "found", "left"),
    [
        (presented(), 3, "ok", 3),
        (presented(), 1, "ok", 1),
        (presented(), 0, "ok", 0),
        (presented(number=9), 3, "credential_invalid", 2),
        (presented(number=9), 1, "credential_invalid", 0),
        (presented(number=9), 0, "missing permits", 0),
        (b"knothing", 2, "credential_invalid", 1),
        (presented("k_new"), 2, "missing k_new", 2),
    ],
)
def test_it_spends_a_permit_on_a_failure_alone(key: bytes, hold: int, found: str, left: int) -> None:
    rules, asker = policy([guessing()], registry=True), request(key=key)

    result = tried(rules, proofs("k_a"), asker, hold=hold)

    assert code(result) == found
    assert [counter.in_hand for counter, _ in rules.bind(asker, UNPROVED).charges] == [left]


def test_it_spends_under_every_limit_or_none() -> None:
    rules, asker = policy([guessing(), guessing(name="more")], registry=True), request(key=b"kx")
    one, other = holding(rules.bind(asker, UNPROVED), 2)
    other.in_hand = 0

    assert code(tried(rules, proofs(), asker)) == "missing permits"
    assert (one.in_hand, other.in_hand) == (2, 0)


def test_it_returns_what_a_shadow_limit_had_in_hand() -> None:
    rules, asker = policy([guessing(mode=Mode.SHADOW)], registry=True), request(key=presented())

    result = tried(rules, proofs("k_a"), asker, hold=2)

    assert code(result) == "ok"
    assert [counter.in_hand for counter, _ in rules.bind(asker, UNPROVED).shadow_charges] == [2]


def test_it_looks_at_nothing_while_it_may_not_be_tried() -> None:
    rules, asker = policy([guessing()], registry=True), request(key=presented("k_new"))
    (counter,) = holding(rules.bind(asker, UNPROVED), 0)
    counter.closed_until_ms = counter.retry_at_ms = NOW_MS + 60_000

    result = tried(rules, proofs(), asker)

    assert result.verdict is not None
    assert (code(result), result.verdict.retry_after_s) == ("rate_limited", 60)


def test_it_refuses_in_the_order_of_the_decision() -> None:
    rules = policy(
        [guessing()],
        [Filter("no", match=Match(paths=("/no",)), deny=True)],
        deny=["192.0.2.1"],
        registry=True,
    )
    (counter,) = holding(rules.bind(request(key=b"kx"), UNPROVED), 0)
    counter.closed_until_ms = counter.retry_at_ms = NOW_MS + 60_000
    it = proofs()

    assert code(tried(rules, it, request(key=b"kx", malformed="two hosts"), attack=True)) == "malformed"
    assert code(tried(rules, it, request("192.0.2.1", key=b"kx"), attack=True)) == "attack_mode"
    assert code(tried(rules, it, request("192.0.2.1", key=b"kx"))) == "address_denied"
    assert code(tried(rules, it, request(path="/no", key=b"kx"))) == "path"
    assert code(tried(rules, it, request(key=b"kx"))) == "rate_limited"


def test_it_charges_the_limits_of_who_was_proved() -> None:
    rules = policy([guessing(), limit("per-key", per=["key"])], registry=True)

    result = tried(rules, proofs("k_a"), request(key=presented()), hold=1)

    assert code(result) == "missing permits"
    assert [counter.limit.name for counter, _ in result.bound.charges] == ["per-key"]
    assert not result.bound.trial


def test_it_says_that_it_cannot_know_without_the_hash_key() -> None:
    rules = policy([guessing()], registry=True)

    result = tried(rules, proofs(hash_key=None), request(key=presented()), hold=1)

    assert result.verdict is not None
    assert (code(result), result.verdict.source) == ("store_unavailable", Source.OUTAGE)


# --- who is it, at first sight ------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "key", "unproved"),
    [(True, None, False), (True, presented(), True), (False, presented(), False)],
)
def test_it_tries_what_is_not_proved_where_keys_are_checked(
    registry: bool, key: bytes | None, unproved: bool
) -> None:
    bound = bind(request(key=key), policy(registry=registry), proofs("k_a"), WALL_MS)

    assert bound.trial is unproved


def test_it_tries_nothing_that_was_proved() -> None:
    it = proofs("k_a")
    assert isinstance(it.prove(presented(), WALL_MS), Principal)

    bound = bind(request(key=presented()), policy(registry=True), it, WALL_MS)

    assert (bound.trial, bound.key_id) == (False, b"k_a")


# --- while the store is silent ------------------------------------------------------

ROOM: Final = Grant(1, 1, 0, 100, 0, 0, 1)
NO_ROOM: Final = Grant(0, 0, 0, 100, NEVER, NEVER, 1)


@pytest.mark.parametrize(
    ("key", "room", "found", "taken"),
    [
        (presented(), ROOM, "ok", 0),
        (presented(number=9), ROOM, "store_unavailable", 1),
        (presented("k_new"), ROOM, "store_unavailable", 0),
        (presented(), NO_ROOM, "rate_limited", 0),
        (presented(number=9), NO_ROOM, "rate_limited", 0),
        (presented("k_new"), NO_ROOM, "rate_limited", 0),
    ],
)
def test_it_takes_from_its_share_for_a_failure_alone(key: bytes, room: Grant, found: str, taken: int) -> None:
    rules, asker = policy([guessing()], registry=True), request(key=key)
    takes: list[int] = []

    def take(counter: Counter, want: int, need: int) -> Grant:
        takes.append(want)
        return room

    verdict = judge_trial_alone(
        rules.bind(asker, UNPROVED),
        asker,
        proofs("k_a"),
        attack=False,
        now_ms=NOW_MS,
        wall_ms=WALL_MS,
        take=take,
        look=lambda *_: room,
    )

    assert verdict.reason.code == found
    assert sum(takes) == taken
