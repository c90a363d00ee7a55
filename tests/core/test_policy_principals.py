"""A policy with a registry: who is charged on what, and that what is remembered is nobody else's."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.addresses import AddressSet
from sidecar.core.bound import UNPROVED, Bound, Who
from sidecar.core.control import Control, Entry
from sidecar.core.model import Counts, Filter, Match, Mode, Reason, Request
from sidecar.core.policy import Policy
from sidecar.core.principals import Principal
from sidecar.core.query_names import CredentialNames
from tests.core.proving import client_key
from tests.doubles import limit, policy, request

ORIGIN: Final = b"https://app.example.com"
EVIL: Final = b"https://evil.example"
ON: Final = Entry(1, 0, b'{"on": true}')
EVERYBODY: Final = ("anonymous", "client", "server")
NAMES: Final = CredentialNames(("api_key",))


def code(bound: Bound) -> str:
    return bound.refusal.reason.code if bound.refusal else ""


def charged(bound: Bound) -> dict[str, int]:
    """The permits of each counter charged, by limit and subject."""
    return {counter.key.decode().partition(":")[2]: counter.permits for counter, _ in bound.charges}


# --- limits -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "found"),
    [
        (None, {"any": 10, "of-anonymous": 1}),
        (Principal("k_a"), {"any": 10, "of-server": 2}),
        (client_key("k_a"), {"any": 10, "of-client": 3}),
        (Principal("k_a", plan="gold"), {"any": 10, "of-server": 2, "of-gold": 4}),
        (Principal("k_a", scopes=["b"]), {"any": 10, "of-server": 2, "of-scopes": 5}),
    ],
)
def test_it_charges_whom_a_limit_concerns(who: Principal | None, found: dict[str, int]) -> None:
    rules = policy(
        [
            limit("any"),
            limit("of-anonymous", 1, match=Match(kinds=("anonymous",))),
            limit("of-server", 2, match=Match(kinds=("server",))),
            limit("of-client", 3, match=Match(kinds=("client",))),
            limit("of-gold", 4, match=Match(plans=("gold",))),
            limit("of-scopes", 5, match=Match(scopes=("a", "b"))),
        ],
        [Filter("open", kinds=EVERYBODY)],
        registry=True,
    )

    bound = rules.bind(request(), who)

    assert {counter.limit.name: counter.permits for counter, _ in bound.charges} == found


@pytest.mark.parametrize(
    ("who", "subject", "permits"),
    [
        (Principal("k_a", tenant="acme"), "k_a", 10),
        (Principal("k_a", tenant="acme", plan="gold"), "k_a", 100),
        (Principal("k_a", tenant="acme", plan="other"), "k_a", 10),
        (Principal("k_over", tenant="acme", plan="gold"), "k_over", 7),
        (Principal("k_a", tenant="over", plan="gold"), "k_a", 8),
        (Principal("k_over", tenant="over"), "k_over", 7),
        (Principal("idp:a|b"), "idp:a%257Cb", 10),
        (None, None, None),
    ],
)
def test_it_gives_a_key_the_permits_of_its_plan_or_override(
    who: Principal | None, subject: str | None, permits: int | None
) -> None:
    overrides = {
        "per-key key:k_over": Entry(1, 0, b'{"permits": 7}'),
        "per-key tenant:over": Entry(1, 0, b'{"permits": 8}'),
    }
    rules = policy(
        [limit("per-key", per=["key"], plans={"gold": 100})],
        [Filter("open", kinds=EVERYBODY)],
        registry=True,
        control=Control(overrides=overrides),
    )

    found = charged(rules.bind(request(), who))

    assert found == ({} if subject is None else {f"{{0}}:per-key:10000/167:{subject}": permits})


def test_it_counts_by_tenant() -> None:
    rules = policy([limit("t", per=["tenant"])], registry=True)

    one, other, none = (
        charged(rules.bind(request(), who))
        for who in (Principal("a", tenant="acme"), Principal("b", tenant="acme"), Principal("c"))
    )

    assert one == other == {"{0}:t:10000/167:acme": 10}
    assert none == {}


def test_it_does_not_lend_the_permits_of_a_plan_to_who_shares_the_address() -> None:
    rules = policy([limit("per-ip", 2, plans={"gold": 100})], registry=True)
    asker = request()
    free, gold = Principal("k_free"), Principal("k_gold", plan="gold")

    before = rules.bind(asker, free)
    rules.bind(asker, gold)

    assert [counter.permits for counter, _ in before.charges] == [2]
    assert [counter.limit.permits for counter, _ in rules.bind(asker, free).charges] == [2]


def test_it_charges_a_trial_on_limits_of_failures_alone() -> None:
    guessing = limit("guessing", 3, counts=Counts.CREDENTIAL_FAILURES)
    rules = policy([limit("per-ip"), guessing], registry=True)

    trial, proved, nobody = (rules.bind(request(), who) for who in (UNPROVED, Principal("k"), None))

    assert [counter.limit.name for counter, _ in trial.charges] == ["guessing"]
    assert [counter.limit.name for counter, _ in proved.charges] == ["per-ip"]
    assert proved.guard is not None
    assert proved.guard.charges == trial.charges
    assert (nobody.guard, trial.guard) == (None, None)


def test_it_counts_a_failure_as_one_whatever_the_request_costs() -> None:
    guessing = limit("guessing", 3, counts=Counts.CREDENTIAL_FAILURES)

    trial = policy([guessing], registry=True).bind(request(cost=7), UNPROVED)

    assert [cost for _, cost in trial.charges] == [1]


def test_it_tries_whoever_is_exempt_without_counting() -> None:
    guessing = limit("guessing", 3, counts=Counts.CREDENTIAL_FAILURES)
    rules = policy([guessing], exempt=["192.0.2.0/24"], registry=True)

    trial, proved = (rules.bind(request("192.0.2.1"), who) for who in (UNPROVED, Principal("k")))

    assert (trial.trial, trial.charges) == (True, ())
    assert (proved.guard, proved.reason) == (None, Reason.EXEMPT)


def test_it_refuses_what_somebody_exempt_may_not() -> None:
    rules = policy([limit()], [Filter("s", scopes=("a",))], exempt=["192.0.2.0/24"], registry=True)

    assert code(rules.bind(request("192.0.2.1"), Principal("k"))) == "scope"
    assert code(rules.bind(request("192.0.2.1"), None)) == "credential_missing"


# --- who asks, for the application --------------------------------------------------


def test_it_tells_the_application_who_asks() -> None:
    rules = policy([limit()], [Filter("open", kinds=EVERYBODY)], registry=True)

    proved = rules.bind(request(), Principal("k_a", tenant="acme", plan="gold"))

    assert (proved.key_id, proved.tenant, proved.plan) == (b"k_a", "acme", "gold")
    assert b"X-Portcullis-Tenant: acme\r\n" in proved.identity
    assert rules.bind(request(), None).identity == Bound.identity
    assert rules.bind(request(key=b"kk_a.x"), UNPROVED).identity == Bound.identity


def test_it_takes_no_unverified_credential_for_a_name_where_keys_are_checked() -> None:
    rules = policy([limit("k", per=["key"])], registry=True)

    assert rules.bind(request(key=b"kk_a.x"), UNPROVED).key_id == b""


# --- what it remembers is nobody else's ----------------------------------------------

ASKERS: Final = st.builds(
    request,
    address=st.sampled_from(["192.0.2.1", "203.0.113.9", "unknown"]),
    method=st.sampled_from(["GET", "OPTIONS"]),
    path=st.sampled_from(["/", "/shop", "/orders/1"]),
    query=st.sampled_from([b"", b"", b"page=1", b"api_key=x"]),
    headers=st.fixed_dictionaries(
        {},
        optional={
            b"origin": st.sampled_from([ORIGIN, EVIL, b"null"]),
            b"access-control-request-method": st.sampled_from([b"GET", b"DELETE", b""]),
        },
    ),
    key=st.sampled_from([None, None, b"kk_a.x"]),
    cost=st.sampled_from([None, None, 1, 3]),
    malformed=st.sampled_from([None, None, None, "two hosts"]),
)
SOMEBODY: Final[tuple[Who, ...]] = (
    None,
    UNPROVED,
    Principal("k_a"),
    Principal("k_a", scopes=["orders.write"]),
    Principal("k_a", scopes=["orders.write"], enabled=False),
    Principal("k_a", plan="gold", tenant="acme"),
    Principal("k_a", misplaced=True),
    Principal("k_a", networks=AddressSet(["192.0.2.0/24"])),
    client_key("k_a"),
    client_key("k_a", origins=("app.example.com",)),
)


def everything() -> Policy:
    return policy(
        [limit(), limit("per-key", per=["key"]), limit("g", 3, counts=Counts.CREDENTIAL_FAILURES)],
        [
            Filter(
                "shop", match=Match(paths=("/shop",)), kinds=("client", "server"), origins=(".example.com",)
            ),
            Filter("orders", match=Match(paths=("/orders/*",)), scopes=("orders.write",)),
            Filter("gold", match=Match(plans=("gold",)), methods=("GET",)),
            Filter("some", methods=("GET",), mode=Mode.SHADOW),
        ],
        registry=True,
        exempt=["192.0.2.1"],
        query_names=NAMES,
        control=Control(attack={"tenant:acme": ON}),
    )


def meaning(bound: Bound) -> tuple[object, ...]:
    refusal = bound.refusal
    return (
        refusal and (refusal.reason, refusal.rule, refusal.methods, refusal.shadow, refusal.allow_origin),
        bound.malformed,
        bound.trial,
        bound.allow_origin,
        bound.shadow,
        bound.reason,
        bound.key_id,
        bound.tenant,
        bound.plan,
        bound.identity,
        [(counter.key, counter.permits, cost) for counter, cost in bound.charges],
        bound.guard and [(counter.key, cost) for counter, cost in bound.guard.charges],
    )


@given(askers=st.lists(st.tuples(ASKERS, st.sampled_from(SOMEBODY)), max_size=20))
def test_it_finds_the_same_for_what_it_remembers(askers: list[tuple[Request, Who]]) -> None:
    remembering = everything()

    found = [meaning(remembering.bind(asker, who)) for asker, who in askers]
    afresh = [meaning(everything().bind(asker, who)) for asker, who in askers]

    assert found == afresh


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            (request(), Principal("k_a")),
            (request(), Principal("k_a", scopes=["orders.write"])),
        ),
        ((request(), None), (request(), UNPROVED)),
        ((request(), Principal("k_a")), (request(headers={b"origin": ORIGIN}), Principal("k_a"))),
        ((request(headers={b"origin": EVIL}), None), (request(headers={b"origin": ORIGIN}), None)),
        ((request(query=b"page=1"), None), (request(query=b"api_key=1"), None)),
        (
            (request(method="OPTIONS", headers={b"origin": ORIGIN}), None),
            (
                request(
                    method="OPTIONS", headers={b"origin": ORIGIN, b"access-control-request-method": b"GET"}
                ),
                None,
            ),
        ),
        ((request(query=b"api_key=1"), None), (request(cost=1), None)),
    ],
)
def test_it_shares_nothing_it_found_between_two_who_differ(
    one: tuple[Request, Who], other: tuple[Request, Who]
) -> None:
    rules = everything()

    assert rules.bind(*one) is not rules.bind(*other)


def test_it_shares_what_it_found_between_queries_that_carry_no_credential() -> None:
    rules, who = everything(), Principal("k_a")

    assert rules.bind(request(query=b"page=1"), who) is rules.bind(request(query=b"page=2"), who)
