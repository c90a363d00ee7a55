"""Subjects: no two share a counter, names are short and plain, and no secret is among them."""

from __future__ import annotations

import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.bound import Bound
from tests.doubles import limit, policy, request

KEYED: Final = re.compile(rb"[0-9a-f]{32}")


def names(bound: Bound) -> list[str]:
    """The counters charged, as the store will know them."""
    return [counter.key.decode() for counter, _ in bound.charges]


PARTS = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"a", b"a|b", b"a%7Cb", b"|", b"#", b"*", b"a b", b"A", b"\xc3\xa9", b"\xe9", b"x" * 128, b"x" * 129]
    ),
    st.binary(min_size=120, max_size=140),
    st.text("a|%:#/{} é", max_size=8).map(str.encode),
    st.builds(
        lambda filler, end: filler * 8_192 + end, st.binary(min_size=1, max_size=1), st.binary(max_size=2)
    ),
)


@given(
    one=st.tuples(PARTS, PARTS, st.integers(0, 2)),
    other=st.tuples(PARTS, PARTS, st.integers(0, 2)),
    hashed=st.booleans(),
)
def test_it_never_lets_two_subjects_share_a_counter(
    one: tuple[bytes, bytes, int], other: tuple[bytes, bytes, int], hashed: bool
) -> None:
    first = "header:x-session-token" if hashed else "header:x-part"
    rules = policy([limit("l", per=[first, "header:x-more", "ip"])])
    header = first.removeprefix("header:").encode()

    def name(parts: tuple[bytes, bytes, int]) -> list[str]:
        headers = {header: parts[0], b"x-more": parts[1]}
        return names(rules.bind(request(f"192.0.2.{parts[2]}", headers=headers)))

    if name(one) and name(other):
        assert (name(one) == name(other)) == (one == other)


@given(parts=st.tuples(PARTS, PARTS))
def test_it_names_counters_in_short_plain_text(parts: tuple[bytes, bytes]) -> None:
    rules = policy([limit("l", per=["header:x-part", "header:x-more"])])

    for name in names(rules.bind(request(headers={b"x-part": parts[0], b"x-more": parts[1]}))):
        assert re.fullmatch(
            r"pc:\{0\}:l:10000/167:[A-Za-z0-9._:/*%~#\-]{1,128}\|[A-Za-z0-9._:/*%~#\-]{1,128}", name
        )


@pytest.mark.parametrize(
    "header",
    [
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-api-key",
        "x-auth-token",
        "x-session-id",
        "x-csrf",
        "x-our-own",
    ],
)
def test_it_shows_the_store_no_header_that_may_hold_a_credential(header: str) -> None:
    rules = policy([limit("l", per=[f"header:{header}"])], hashed_headers=[b"x-our-own"])

    (name,) = names(rules.bind(request(headers={header.encode(): b"s3cret"})))

    assert "s3cret" not in name
    assert KEYED.fullmatch(name.rpartition(":")[2].encode())


def test_it_shows_the_store_no_key() -> None:
    rules = policy([limit("l", per=["key"])])

    bound = rules.bind(request(key=b"s3cret"))

    assert names(bound) == [f"pc:{{0}}:l:10000/167:{bound.key_id.decode()}"]
    assert KEYED.fullmatch(bound.key_id)
    assert rules.key_id(b"s3cret") != rules.key_id(b"s3cret ")
