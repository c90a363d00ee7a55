"""Which counters are whose: told exactly, whether by name or by a pattern."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.addresses import subject_of
from sidecar.core.ledger import Ledger
from sidecar.core.model import Limit, Match, Request
from sidecar.core.policy import Policy
from tests.doubles import limit, policy, request

PATHS: Final = ("/login", "/a|b/*", "/x y", "*")
PERS: Final = (
    ["ip"],
    ["ip", "route"],
    ["route", "key"],
    ["key"],
    ["host", "ip"],
    ["ip", "header:x-part", "key"],
    ["header:x-part", "route", "ip"],
)
ADDRESSES: Final = ["192.0.2.1", "192.0.2.11", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "unknown"]
PARTS: Final = [b"192.0.2.1", b"a", b"a|b", b"|192.0.2.1", b"*", b"?", b"[a]", b"\\"]
ASKERS = st.builds(
    request,
    address=st.sampled_from(ADDRESSES),
    path=st.sampled_from(["/login", "/a|b/c", "/x y", "/else"]),
    host=st.sampled_from(["a.example", "192.0.2.1", ""]),
    key=st.sampled_from([b"k1", b"k2", None]),
    headers=st.fixed_dictionaries({b"x-part": st.sampled_from(PARTS)}),
)


def rules_of(per: list[str], shards: int) -> Policy:
    both: list[Limit] = [limit("l", per=per, match=Match(paths=PATHS)), limit("l2", per=per)]
    return policy(both, ledger=Ledger(shards=shards))


@pytest.mark.parametrize("per", PERS)
@given(askers=st.lists(ASKERS, max_size=12), of=ASKERS, shards=st.sampled_from([1, 3]))
def test_it_chooses_the_counters_of_the_subject_and_no_other(
    per: list[str], askers: list[Request], of: Request, shards: int
) -> None:
    rules = rules_of(per, shards)
    whole = {"address": subject_of(of.address, 64), "key": rules.key_id(of.key or b"").decode()}
    for kind, value in whole.items():
        if {"address": "ip", "key": "key"}[kind] not in per:
            continue

        chosen = rules.chosen("l", kind, value)

        for asker in askers:
            for counter, _ in rules.bind(asker).charges:
                its = {
                    "address": subject_of(asker.address, 64),
                    "key": rules.key_id(asker.key or b"").decode(),
                }
                expected = counter.limit.name == "l" and its[kind] == value
                assert chosen.has(counter.key) == expected
                if chosen.subjects is not None:
                    assert (counter.key in chosen.keys) == expected


@pytest.mark.parametrize(
    ("per", "kind", "value", "named"),
    [
        (["ip"], "address", "192.0.2.1", 1),
        (["ip", "route"], "address", "192.0.2.1", len(PATHS)),
        (["route", "key"], "key", "abc", len(PATHS)),
        (["tenant"], "tenant", "acme", 1),
        (["host", "ip"], "address", "192.0.2.1", None),
        (["ip", "header:x-part", "route"], "address", "192.0.2.1", None),
    ],
)
def test_it_names_counters_where_it_can(per: list[str], kind: str, value: str, named: int | None) -> None:
    chosen = rules_of(per, 3).chosen("l", kind, value)

    assert (None if chosen.subjects is None else len(chosen.keys)) == named


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("192.0.2.1", "l address:192.0.2.1"),
        ("192.0.2.1/32", "l address:192.0.2.1"),
        ("::ffff:192.0.2.1", "l address:192.0.2.1"),
        ("2001:DB8::1", "l address:2001:db8::/64"),
        ("2001:db8::/64", "l address:2001:db8::/64"),
        ("2001:db8::/96", "l address:2001:db8::/64"),
        ("unknown", "l address:unknown"),
    ],
)
def test_it_tells_an_address_in_one_way(value: str, field: str) -> None:
    assert rules_of(["ip"], 1).chosen("l", "address", value).field == field


@pytest.mark.parametrize(
    ("name", "kind", "value", "why"),
    [
        ("x", "address", "192.0.2.1", "no limit"),
        ("l", "key", "abc", "does not count by key"),
        ("l", "tenant", "acme", "does not count by tenant"),
        ("l", "host", "a.example", "does not count by host"),
        ("l", "address", "192.0.2.0/24", "many subjects"),
        ("l", "address", "2001:db8::/63", "many subjects"),
        ("l", "address", "junk", "not an IPv4 or IPv6 address"),
        ("by-key", "key", "", "printable"),
        ("by-key", "key", "a\nb", "printable"),
        ("by-key", "key", "a" * 300, "printable"),
    ],
)
def test_it_refuses_what_is_no_subject_of_the_limit(name: str, kind: str, value: str, why: str) -> None:
    rules = policy([limit("l"), limit("by-key", per=["key"])])

    with pytest.raises(ValueError, match=why):
        rules.chosen(name, kind, value)
