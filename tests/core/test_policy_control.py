"""The policy under what operators change at run time: it decides as one built anew, and keeps what it may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.bound import Bound
from sidecar.core.control import EMPTY, Control
from sidecar.core.decide import judge
from sidecar.core.ledger import Ledger
from sidecar.core.model import Cost, Filter, Match, Mode, Reason, Request, Source
from sidecar.core.policy import Policy
from tests.controls import control
from tests.core.process import hold
from tests.doubles import limit, policy, request

NOW: Final = 5_000.0
KEYS: Final = {name: policy().key_id(name).decode() for name in (b"k1", b"k2")}


def permits(bound: Bound) -> list[int]:
    assert [counter.permits for counter, _ in bound.charges] == [of.permits for of in bound.terms.limits]
    return [counter.permits for counter, _ in bound.charges]


# --- lists --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configured", "at_run_time", "rule"),
    [
        (["192.0.2.0/24"], [], "addresses.deny"),
        ([], ["192.0.2.1"], "run-time deny"),
        (["192.0.2.0/24"], ["192.0.2.1"], "addresses.deny"),
    ],
)
def test_it_says_which_list_denies(configured: list[str], at_run_time: list[str], rule: str) -> None:
    rules = policy(deny=configured).under(control(deny=at_run_time))

    refusal = rules.bind(request("192.0.2.1")).refusal

    assert refusal is not None
    assert (refusal.reason, refusal.rule) == (Reason.ADDRESS_DENIED, rule)


def test_it_names_every_list_that_denies() -> None:
    rules = policy(deny=["192.0.2.0/24"]).under(control(deny=["192.0.2.1"]))

    found = rules.objections(request("192.0.2.1"))

    assert [finding.rule for finding in found] == ["addresses.deny", "run-time deny"]


def test_it_denies_at_run_time_whatever_the_configuration_exempts_or_allows() -> None:
    rules = policy([limit()], allow=["192.0.2.1"], exempt=["192.0.2.1"]).under(control(deny=["192.0.2.1"]))

    refusal = rules.bind(request("192.0.2.1")).refusal

    assert refusal is not None
    assert refusal.reason is Reason.ADDRESS_DENIED


def test_it_takes_an_address_off_a_list_again() -> None:
    asker, rules = request("192.0.2.1"), policy([limit()])
    denying = rules.under(control(deny=["192.0.2.1"]))

    refused = denying.bind(asker).refusal
    let_through = denying.under(control(number=2)).bind(asker).refusal

    assert refused is not None
    assert let_through is None


CIDRS = st.lists(st.sampled_from(["192.0.2.0/24", "192.0.2.1/32", "2001:db8::/32", "0.0.0.0/0"]), max_size=2)


class Four(NamedTuple):
    """Address lists of one kind."""

    deny: list[str]
    allow: list[str]
    exempt: list[str]
    passes: list[str]


LISTS = st.builds(Four, CIDRS, CIDRS, CIDRS, CIDRS)
ADDRESSES: Final = ["192.0.2.1", "192.0.2.9", "198.51.100.7", "2001:db8::1", "2001:db8:0:1::2", "unknown"]
SUBJECTS: Final = [
    f"key:{KEYS[b'k1']}",
    f"key:{KEYS[b'k2']}",
    "tenant:acme",
    "address:192.0.2.1/32",
    "address:192.0.2.0/24",
    "address:0.0.0.0/0",
    "address:2001:db8::/64",
    "address:2001:db8::/32",
    "address:2001:db8::1/128",
]
OVERRIDES = st.dictionaries(
    st.builds(
        lambda name, subject: f"{name} {subject}",
        st.sampled_from(["ip", "key", "both", "all", "gone"]),
        st.sampled_from(SUBJECTS),
    ),
    st.integers(0, 50),
    max_size=6,
)


def state_of(
    lists: Four, attacked: Iterable[str] = (), overrides: Mapping[str, int] | None = None
) -> Control:
    deny, allow, exempt, passes = lists
    return control(
        deny=deny, allow=allow, exempt=exempt, passes=passes, attacked=attacked, overrides=overrides
    )


STATES = st.builds(
    state_of,
    LISTS,
    st.lists(st.sampled_from([f"key:{KEYS[b'k1']}", "tenant:acme"]), max_size=2),
    OVERRIDES,
)
ASKERS = st.builds(
    request,
    address=st.sampled_from(ADDRESSES),
    path=st.sampled_from(["/", "/login", "/admin/x"]),
    key=st.sampled_from([None, b"k1", b"k2"]),
    cost=st.sampled_from([None, None, 3]),
)
RULES: Final = [
    limit("ip"),
    limit("key", per=["key"], match=Match(paths=("/login", "/"))),
    limit("both", 20, per=["key", "ip"], cost=Cost(2)),
    limit("all", 30, per=["global"]),
    limit("seen", 3, mode=Mode.SHADOW),
]
FILTERS: Final = [Filter("office", require_allow=True, match=Match(paths=("/admin/*",)))]
CONFIGURED: Final = {"deny": ["203.0.113.0/24"], "exempt": ["198.51.100.0/24"]}


def listing(lists: Four) -> Policy:
    deny, allow, exempt, passes = lists
    return policy(RULES, FILTERS, deny=deny, allow=allow, exempt=exempt, passes=passes)


def meaning(bound: Bound) -> tuple[object, ...]:
    refusal = bound.refusal
    return (
        refusal and (refusal.reason, refusal.rule, refusal.status, refusal.retry_after_s, refusal.key_id),
        bound.passes,
        bound.reason,
        [(counter.key, counter.permits, counter.limit, cost) for counter, cost in bound.charges],
        [(counter.key, counter.permits, counter.limit, cost) for counter, cost in bound.shadow_charges],
        bound.terms,
    )


@given(states=st.lists(st.tuples(STATES, st.lists(ASKERS, max_size=8)), max_size=5))
def test_it_decides_under_any_state_as_a_policy_built_for_it(
    states: list[tuple[Control, list[Request]]],
) -> None:
    rules = policy(RULES, FILTERS, deny=CONFIGURED["deny"], exempt=CONFIGURED["exempt"])
    for state, askers in states:
        rules = rules.under(state)
        built = policy(RULES, FILTERS, deny=CONFIGURED["deny"], exempt=CONFIGURED["exempt"], control=state)

        for asker in askers:
            assert meaning(rules.bind(asker)) == meaning(built.bind(asker))


@given(configured=LISTS, at_run_time=LISTS, asker=ASKERS)
def test_it_takes_lists_of_both_kinds_as_one(configured: Four, at_run_time: Four, asker: Request) -> None:
    both = listing(configured).under(state_of(at_run_time))
    union = listing(Four(*(one + other for one, other in zip(configured, at_run_time, strict=True))))

    one, other = both.bind(asker), union.bind(asker)

    assert (one.refusal and one.refusal.reason) == (other.refusal and other.refusal.reason)
    assert meaning(one)[1:] == meaning(other)[1:]


# --- attack mode of one key ---------------------------------------------------


def test_it_refuses_the_key_that_is_under_attack_mode_and_nobody_else() -> None:
    rules = policy([limit()], passes=["192.0.2.250"]).under(control(attacked=[f"key:{KEYS[b'k1']}"]))

    found = {
        (key, address): rules.bind(request(address, key=key)).refusal
        for key in (None, b"k1", b"k2")
        for address in ("192.0.2.1", "192.0.2.250")
    }

    refusal = found.pop((b"k1", "192.0.2.1"))
    assert refusal is not None
    assert (refusal.reason, refusal.status, refusal.retry_after_s) == (Reason.ATTACK_MODE, 503, 60)
    assert (refusal.rule, refusal.key_id.decode()) == (f"attack_mode key:{KEYS[b'k1']}", KEYS[b"k1"])
    assert set(found.values()) == {None}


def test_it_asks_the_filters_before_attack_mode_of_a_key() -> None:
    filters = [Filter("no", deny=True, match=Match(paths=("/no",)))]
    rules = policy([limit()], filters, exempt=["192.0.2.1"]).under(control(attacked=[f"key:{KEYS[b'k1']}"]))

    reasons = [rules.bind(request("192.0.2.1", path=path, key=b"k1")).refusal for path in ("/no", "/")]

    assert [refusal and refusal.reason for refusal in reasons] == [Reason.PATH, Reason.ATTACK_MODE]


# --- overrides ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("per", "address", "key", "of"),
    [
        (["ip"], "192.0.2.1", None, 1),
        (["ip"], "192.0.2.9", None, 2),
        (["ip"], "198.51.100.1", None, 10),
        (["ip"], "192.0.2.1", b"k1", 1),
        (["ip"], "unknown", None, 10),
        (["ip"], "2001:db8::9", None, 3),
        (["ip"], "2001:db8:0:1::9", None, 4),
        (["ip", "route"], "192.0.2.1", None, 1),
        (["key"], "192.0.2.1", b"k1", 5),
        (["key"], "192.0.2.1", b"k2", 10),
        (["key", "ip"], "192.0.2.1", b"k1", 5),
        (["key", "ip"], "192.0.2.1", b"k2", 1),
        (["global"], "192.0.2.1", b"k1", 10),
    ],
)
def test_it_finds_the_override_of_the_subject(
    per: list[str], address: str, key: bytes | None, of: int
) -> None:
    fields = {
        "l address:192.0.2.1/32": 1,
        "l address:192.0.2.0/24": 2,
        "l address:2001:db8::/64": 3,
        "l address:2001:db8::/32": 4,
        f"l key:{KEYS[b'k1']}": 5,
        "other address:0.0.0.0/0": 6,
    }
    rules = policy([limit("l", per=per)]).under(control(overrides=fields))

    assert permits(rules.bind(request(address, key=key))) == [of]


def test_it_gives_one_counter_one_number_of_permits() -> None:
    """An override for less than what a limit counts as one subject would give it two."""
    rules = policy([limit("l")]).under(control(overrides={"l address:2001:db8::/128": 3}))

    bounds = [rules.bind(request(address)) for address in ("2001:db8::", "2001:db8::1")]

    assert [permits(bound) for bound in bounds] == [[10], [10]]


def test_it_tells_the_permits_that_apply() -> None:
    rules = policy([limit("l"), limit("m")]).under(control(overrides={"l address:192.0.2.1/32": 500}))

    special, usual = rules.bind(request("192.0.2.1")), rules.bind(request("192.0.2.2"))

    assert special.terms.policy_header == b'"l";q=500;w=10, "m";q=10;w=10'
    assert usual.terms.policy_header == b'"l";q=10;w=10, "m";q=10;w=10'
    for counter, _ in special.charges:
        hold(counter, 9)
    verdict = judge(special, False, NOW, Source.MEMORY)
    assert verdict is not None
    assert [quota.limit.permits for quota in verdict.quotas] == [500, 10]


def test_it_keeps_what_it_knows_of_counters_when_something_else_changes() -> None:
    ledger = Ledger()
    rules = policy([limit("l")], ledger=ledger)
    ((counter, _),) = rules.bind(request("192.0.2.1")).charges
    hold(counter, 7)

    for number in range(2, 9):
        overrides = {"l address:192.0.2.2/32": number, "m address:192.0.2.1/32": number}
        rules = rules.under(control(number=number, deny=[f"198.51.100.{number}"], overrides=overrides))
        ((same, _),) = rules.bind(request("192.0.2.1")).charges

        assert same is counter
        assert (same.in_hand, ledger.has_work(0)) == (7, False)


@pytest.mark.parametrize("other", [0, 3, 500])
def test_it_forgets_what_it_knows_of_a_counter_whose_permits_change(other: int) -> None:
    ledger = Ledger()
    rules = policy([limit("l")], ledger=ledger)
    ((counter, _),) = rules.bind(request("192.0.2.1")).charges
    hold(counter, 7, room=40)
    counter.closed_until_ms = counter.retry_at_ms = NOW + 1_000

    rules = rules.under(control(overrides={"l address:192.0.2.0/24": other}))
    ((same, _),) = rules.bind(request("192.0.2.1")).charges

    assert same is counter
    assert (same.permits, same.in_hand, same.room, same.closed_until_ms) == (other, 0, 0, 0.0)
    batch = ledger.collect(0, NOW)
    assert [(key, ask.give_back) for key, ask in batch.asks] == [(counter.key, 7)]
    ((again, _),) = rules.under(EMPTY).bind(request("192.0.2.1")).charges
    assert (again.permits, again.limit) == (10, rules.limits[0])


def test_it_makes_no_rules_anew() -> None:
    rules = policy(RULES, FILTERS)
    before = rules.bind(request(path="/login"))

    after = rules.under(control()).bind(request(path="/login"))

    assert after is not before
    assert after.terms is before.terms
    assert [counter for counter, _ in after.charges] == [counter for counter, _ in before.charges]


def test_it_remembers_a_bounded_number_of_other_permits() -> None:
    rules = policy([limit("l")])

    for number in range(3_000):
        rules = rules.under(control(overrides={"l address:192.0.2.0/24": number}))
        assert permits(rules.bind(request("192.0.2.1"))) == [number]

    assert rules.counters() == 1


# --- resets -------------------------------------------------------------------


def known(rules: Policy, *addresses: str) -> list[int]:
    return [counter.in_hand for address in addresses for counter, _ in rules.bind(request(address)).charges]


def test_it_forgets_the_counters_of_a_subject_alone() -> None:
    ledger = Ledger()
    rules = policy([limit("l"), limit("m")], ledger=ledger)
    for address in ("192.0.2.1", "192.0.2.2"):
        for counter, _ in rules.bind(request(address)).charges:
            hold(counter, 7)

    rules = rules.forget(rules.chosen("l", "address", "192.0.2.1"))

    assert known(rules, "192.0.2.1", "192.0.2.2") == [0, 7, 7, 7]


def test_it_forgets_the_counters_of_all_routes() -> None:
    routes = ("/login", "/a b/*", "*")
    rules = policy([limit("l", per=["route", "ip"], match=Match(paths=routes))])
    askers = [request(path=path) for path in ("/login", "/a b/c", "/else")]
    for asker in askers:
        hold(rules.bind(asker).charges[0][0], 7)

    rules = rules.forget(rules.chosen("l", "address", "203.0.113.9"))

    assert [rules.bind(asker).charges[0][0].in_hand for asker in askers] == [0, 0, 0]


def test_it_forgets_what_a_remembered_request_was_bound_to() -> None:
    rules = policy([limit("l")], ledger=Ledger(most=4))
    evicted = rules.bind(request("192.0.2.1"))
    hold(evicted.charges[0][0], 7)
    for at in range(2, 9):
        rules.bind(request(f"192.0.2.{at}"))

    rules = rules.forget(rules.chosen("l", "address", "192.0.2.1"))

    assert known(rules, "192.0.2.1") == [0]
