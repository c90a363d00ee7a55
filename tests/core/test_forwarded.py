"""X-Forwarded-For: the walk past trusted proxies to the client, or to nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.addresses import AddressSet, canonical_address
from sidecar.core.forwarded import MAX_HOPS, client_address

TRUSTED = AddressSet(["10.0.0.0/8", "2001:db8:ffff::/48"])


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b" \t203.0.113.9\t ", "203.0.113.9"),
        (b"203.0.113.9:4711", "203.0.113.9"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[2001:DB8::1]:4711", "2001:db8::1"),
        (b"::ffff:203.0.113.9", "203.0.113.9"),
        (b"[::ffff:203.0.113.9]:1", "203.0.113.9"),
        (b"198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (b"198.51.100.1,203.0.113.9,10.0.0.1,10.0.0.2:80", "203.0.113.9"),
        (b"198.51.100.1, 203.0.113.9, [2001:db8:ffff::1]:80 , ::ffff:10.0.0.1", "203.0.113.9"),
        (b"10.0.0.3, 10.0.0.2, 10.0.0.1", "10.0.0.3"),
        (b"junk, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (b", 203.0.113.9", "203.0.113.9"),
        (b"", None),
        (b" ", None),
        (b",", None),
        (b"203.0.113.9,", None),
        (b"203.0.113.9, unknown", None),
        (b"203.0.113.9, unknown, 10.0.0.1", None),
        (b"203.0.113.9, , 10.0.0.1", None),
        (b"unknown", None),
        (b"_hidden", None),
        (b'"203.0.113.9"', None),
        (b"203.0.113.9;x", None),
        (b"203.0.113.9 10.0.0.1", None),
        (b"203.0.113.9:", None),
        (b"203.0.113.9:http", None),
        (b"203.0.113.9:123456", None),
        (b"[203.0.113.9]:80", None),
        (b"[203.0.113.9]", None),
        (b"[2001:db8::1", None),
        (b"2001:db8::1]:80", None),
        (b"[2001:db8::1]80", None),
        (b"[fe80::1%eth0]:80", None),
        (b"0203.0.113.9", None),
        (b"203.0.113.9\x00", None),
        (b"\xff\xfe", None),
    ],
)
def test_it_walks_from_the_right_past_trusted_addresses(forwarded: bytes, client: str | None) -> None:
    assert client_address(forwarded, TRUSTED) == client


def test_it_trusts_nobody_by_default() -> None:
    assert client_address(b"203.0.113.9, 10.0.0.1", AddressSet([])) == "10.0.0.1"


def test_it_gives_up_on_an_endless_chain_of_trusted_addresses() -> None:
    chain = b"203.0.113.9" + b", 10.0.0.1" * (MAX_HOPS - 1)

    assert client_address(chain, TRUSTED) == "203.0.113.9"
    assert client_address(chain + b", 10.0.0.1", TRUSTED) is None


@given(st.binary(max_size=60))
def test_it_finds_an_address_or_none_whatever_the_bytes(forwarded: bytes) -> None:
    client = client_address(forwarded, TRUSTED)

    assert client is None or canonical_address(client) == client


@given(st.lists(st.sampled_from(["203.0.113.9", "198.51.100.1", "10.0.0.1", "10.9.9.9", "x"]), min_size=1))
def test_it_walks_like_a_slow_walker(entries: list[str]) -> None:
    kept = entries[:]
    while len(kept) > 1 and kept[-1].startswith("10."):
        kept.pop()
    expected = None if kept[-1] == "x" else kept[-1]

    if len(entries) <= MAX_HOPS:
        assert client_address(", ".join(entries).encode(), TRUSTED) == expected
