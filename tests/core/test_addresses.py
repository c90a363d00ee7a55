"""Addresses: one text each, and sets that agree with `ipaddress` about everything."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.addresses import (
    MAX_ERRORS,
    AddressSet,
    canonical_address,
    finish,
    networks_around,
    parse_cidr,
    parse_cidrs,
    read_record,
    subject_of,
)
from tests.networks import Address, Oracle, addresses, agrees, cidrs, many, near, plain

# --- one text for one address ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("255.255.255.255", "255.255.255.255"),
        ("2001:DB8::A", "2001:db8::a"),
        ("2001:db8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:0db8:0000:0001:0000:0000:0000:0001", "2001:db8:0:1::1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("::", "::"),
        ("::1", "::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:0201", "192.0.2.1"),
        ("0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1"),
        ("::192.0.2.1", "::c000:201"),
        ("::1.2.0.0", "::102:0"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
    ],
)
def test_it_writes_an_address_in_one_way(text: str, canonical: str) -> None:
    assert canonical_address(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "unknown",
        "10",
        "10.1",
        "10.0.1",
        "10.0.0.0.1",
        "10.0.0.256",
        "010.0.0.1",
        "10.0.0.01",
        "0x0a.0.0.1",
        "10.0.0.1 ",
        " 10.0.0.1",
        "10.0.0.1\n",
        "10.0.0.1\0",
        "10.0.0.-1",
        "10.0.0.1:80",
        "10.0.0.1/32",
        "١.٢.٣.٤",
        "10.0.0.1\udcff",
        ":",
        ":::",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "1::2::3",
        "12345::",
        "g::",
        "[::1]",
        "::1%eth0",
        "fe80::1%1",
        "::ffff:10.0.0.01",
        "::ffff:10.0.1",
        "::1 ",
        "::1\0",
        "::١",
    ],
)
def test_it_takes_nothing_else_for_an_address(text: str) -> None:
    assert canonical_address(text) is None
    assert not AddressSet(["0.0.0.0/0", "::/0"]).contains(text)
    if text != "10.0.0.1/32":  # a network, for which one may ask
        assert AddressSet(["0.0.0.0/0", "::/0"]).match(text) is None


@given(addresses)
def test_it_writes_addresses_as_the_oracle_does(address: Address) -> None:
    assert canonical_address(str(address)) == str(plain(address))
    assert canonical_address(address.exploded.upper()) == str(plain(address))


@given(st.text(alphabet="0123456789abf:.%/[] x", max_size=20))
def test_it_takes_for_an_address_what_the_oracle_does(text: str) -> None:
    try:
        expected: str | None = str(plain(ipaddress.ip_address(text)))
    except ValueError:
        expected = None
    if "%" in text:
        expected = None

    assert canonical_address(text) == expected


@given(addresses, st.integers(1, 128))
def test_it_counts_ipv4_by_address_and_ipv6_by_network(address: Address, prefix: int) -> None:
    canonical = str(plain(address))
    if ":" in canonical:
        expected = str(ipaddress.IPv6Network((canonical, prefix), strict=False))
    else:
        expected = canonical

    assert subject_of(canonical, prefix) == expected


def test_it_counts_what_has_no_address_as_itself() -> None:
    assert subject_of("unknown", 64) == "unknown"


# --- prefixes as text -----------------------------------------------------------


@given(cidrs)
def test_it_writes_prefixes_as_the_oracle_does(cidr: str) -> None:
    network = ipaddress.ip_network(cidr)

    assert parse_cidr(cidr) == cidr
    assert parse_cidr(network.exploded.upper()) == cidr


@pytest.mark.parametrize(
    ("text", "cidr"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
    ],
)
def test_it_reads_prefixes_in_other_forms(text: str, cidr: str) -> None:
    assert parse_cidr(text) == cidr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not an IPv4 or IPv6 address or prefix"),
        ("/8", "is not an IPv4 or IPv6 address or prefix"),
        ("localhost", "is not an IPv4 or IPv6 address or prefix"),
        ("10.0.0/8", "is not an IPv4 or IPv6 address or prefix"),
        ("010.0.0.0/8", "is not an IPv4 or IPv6 address or prefix"),
        ("fe80::%eth0/64", "is not an IPv4 or IPv6 address or prefix"),
        ("10.0.0.0 /8", "is not an IPv4 or IPv6 address or prefix"),
        ("10.0.0.0\0/8", "is not an IPv4 or IPv6 address or prefix"),
        ("10.0.0.0/33", "the prefix length must be a whole number from 0 to 32"),
        ("10.0.0.0/", "the prefix length must be a whole number from 0 to 32"),
        ("10.0.0.0/08", "the prefix length must be a whole number from 0 to 32"),
        ("10.0.0.0/+8", "the prefix length must be a whole number from 0 to 32"),
        ("10.0.0.0/ 8", "the prefix length must be a whole number from 0 to 32"),
        ("10.0.0.0/٨", "the prefix length must be a whole number from 0 to 32"),
        ("10.0.0.0/8/8", "the prefix length must be a whole number from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "the prefix length must be a whole number from 0 to 32"),
        ("::/129", "the prefix length must be a whole number from 0 to 128"),
        ("::ffff:10.0.0.0/8", "an IPv4-mapped prefix is at least /96"),
        ("10.0.0.1/8", r"write 10.0.0.0/8 \(network\) or 10.0.0.1/32 \(address\)"),
        ("2001:db8::1/32", r"write 2001:db8::/32 \(network\) or 2001:db8::1/128 \(address\)"),
        ("::ffff:10.0.0.1/104", r"write 10.0.0.0/8 \(network\) or 10.0.0.1/32 \(address\)"),
        ("::1/0", r"write ::/0 \(network\) or ::1/128 \(address\)"),
    ],
)
def test_it_says_what_is_wrong_with_a_prefix(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        parse_cidr(text)

    assert repr(text) in str(refused.value)


def test_it_reads_a_list_file() -> None:
    text = "\ufeff# ours\n10.0.0.0/8   # office\r\n\n  2001:DB8::/32\t\n192.0.2.1#x\n#\n"

    assert parse_cidrs(text, "drop.txt") == ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"]


def test_it_names_file_and_line_of_every_error() -> None:
    with pytest.raises(ValueError, match="drop") as refused:
        parse_cidrs("10.0.0.0/8\n10.0.0.1/8\n\nx\n192.0.2.0/24 192.0.2.1\n", "drop.txt")

    lines = str(refused.value).split("\n")
    assert [line[: line.index(": ")] for line in lines] == ["drop.txt:2", "drop.txt:4", "drop.txt:5"]


def test_it_counts_errors_beyond_the_first() -> None:
    with pytest.raises(ValueError, match=r"and 3 more$") as refused:
        parse_cidrs("x\n" * (MAX_ERRORS + 3), "drop.txt")

    assert len(str(refused.value).split("\n")) == MAX_ERRORS + 1


# --- sets -----------------------------------------------------------------------


@given(st.lists(cidrs, max_size=12), st.lists(addresses, max_size=12))
def test_it_contains_what_the_oracle_contains(listed: list[str], asked: list[Address]) -> None:
    agrees(AddressSet(listed), set(listed), asked)


@given(
    st.lists(cidrs, max_size=8),
    st.lists(st.tuples(st.lists(cidrs, max_size=3), st.lists(cidrs, max_size=3), st.booleans()), max_size=4),
    st.lists(addresses, max_size=6),
    st.data(),
)
def test_it_follows_changes_as_the_oracle_does(
    listed: list[str],
    changes: list[tuple[list[str], list[str], bool]],
    asked: list[Address],
    data: st.DataObject,
) -> None:
    oracle = set(listed)
    subject = AddressSet(listed)
    for add, remove, merge in changes:
        present = [data.draw(st.sampled_from(sorted(oracle)))] if oracle else []
        before, former = subject, set(oracle)

        subject = subject.with_changes(add, [*remove, *present])
        oracle = (oracle - {*remove, *present}) | set(add)

        agrees(before, former, asked)
        agrees(subject, oracle, asked)
        if merge:
            subject = finish(AddressSet.union_steps([subject]))
            assert subject.pending == 0
            agrees(subject, oracle, asked)


def test_it_treats_ipv4_mapped_addresses_as_ipv4() -> None:
    subject = AddressSet(["10.0.0.0/8", "::/0"])

    assert subject.match("::ffff:10.0.0.1") == "10.0.0.0/8"
    assert subject.contains("::ffff:10.0.0.1")
    assert not subject.contains("::ffff:11.0.0.1")
    assert subject.match("::ffff:11.0.0.1") is None
    assert subject.contains("::1")
    assert not AddressSet(["::/0"]).contains("192.0.2.1")


@given(st.lists(cidrs, max_size=12), cidrs, st.booleans())
def test_it_finds_the_least_prefix_around_a_network(listed: list[str], asked: str, overlaid: bool) -> None:
    subject = AddressSet().with_changes(listed) if overlaid else AddressSet(listed)
    network = ipaddress.ip_network(asked)
    around = [
        other
        for other in map(ipaddress.ip_network, listed)
        if other.version == network.version and other.supernet_of(network)  # type: ignore[arg-type] # one family
    ]

    expected = max(around, key=lambda other: other.prefixlen, default=None)

    assert subject.match(asked) == (None if expected is None else str(expected))
    assert subject.match(asked) == next((cidr for cidr in networks_around(asked) if cidr in listed), None)


@given(
    st.lists(st.tuples(st.sets(cidrs, max_size=6), st.sets(cidrs, max_size=3)), max_size=4),
    st.sets(cidrs, max_size=3),
    st.lists(addresses, max_size=6),
    st.data(),
)
def test_it_unites_sets_as_the_oracle_does(
    parts: list[tuple[set[str], set[str]]], removed: set[str], asked: list[Address], data: st.DataObject
) -> None:
    oracle, sets = set[str](), list[AddressSet]()
    for listed, added in parts:
        less = data.draw(st.sets(st.sampled_from(sorted(listed)))) if listed else set()
        sets.append(AddressSet(listed).with_changes(added, less - added))
        oracle |= listed - less | added
    removed |= data.draw(st.sets(st.sampled_from(sorted(oracle)))) if oracle else set()

    united = finish(AddressSet.union_steps(sets, set(map(read_record, removed))))

    assert united.pending == 0
    agrees(united, oracle - removed, asked)


@pytest.mark.parametrize("seed", range(2))
def test_it_unites_thousands(seed: int) -> None:
    chance = random.Random(seed)
    parts = [list(many(chance, count)) for count in (9_000, 3_000, 1)]
    removed = chance.sample(parts[0], 2_000)
    oracle = Oracle({cidr for part in parts for cidr in part} - set(removed))

    united = finish(AddressSet.union_steps(list(map(AddressSet, parts)), set(map(read_record, removed))))

    assert list(united.prefixes()) == oracle.in_order()
    for address in near(chance, chance.sample(parts[0], 500) + parts[1][:200]):
        assert united.contains(address) == (oracle.match(address) is not None), address


@given(st.lists(cidrs, max_size=20), st.lists(cidrs, max_size=5))
def test_it_knows_exactly_which_prefixes_it_holds(listed: list[str], asked: list[str]) -> None:
    subject = AddressSet(listed)

    for cidr in {*listed, *asked}:
        assert subject.holds(read_record(cidr)) == (cidr in listed)


def test_it_is_empty_without_prefixes() -> None:
    subject = AddressSet()

    assert len(subject) == 0
    assert not subject.contains("0.0.0.0")
    assert not subject.contains("::")
    assert not subject.contains("255.255.255.255")


def test_it_refuses_a_bad_prefix_wherever_it_comes_in() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        AddressSet(["10.0.0.1/8"])
    with pytest.raises(ValueError, match="'x'"):
        AddressSet().with_changes(["x"])
    with pytest.raises(ValueError, match="'y'"):
        AddressSet().with_changes([], ["y"])


def test_it_drops_changes_that_change_nothing() -> None:
    subject = AddressSet(["10.0.0.0/8"])

    assert subject.with_changes(["10.0.0.0/8"], ["192.0.2.0/24"]).pending == 0
    assert subject.with_changes([], ["10.0.0.0/8"]).with_changes(["10.0.0.0/8"]).pending == 0
    assert subject.with_changes(["192.0.2.0/24"]).with_changes([], ["192.0.2.0/24"]).pending == 0
