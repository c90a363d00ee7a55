"""Quota headers, read back with a structured-field parser that shares nothing with what wrote them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.model import Dimension, Limit, Quota
from sidecar.core.quota_headers import legacy_headers, policy_header, ratelimit_header

names = st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True)
numbers = st.integers(0, 10**12)


def limit(name: str, permits: int = 100) -> Limit:
    return Limit(name, (Dimension("ip"),), permits, window_ms=60_000, slice_ms=1000)


def test_it_writes_a_policy_as_the_draft_has_it() -> None:
    assert policy_header([("per-ip", 100, 60_000)]) == b'"per-ip";q=100;w=60'
    assert (
        policy_header([("per-ip", 100, 60_000), ("day", 0, 86_400_000)])
        == b'"per-ip";q=100;w=60, "day";q=0;w=86400'
    )


def test_it_gives_a_window_only_in_whole_seconds() -> None:
    assert (
        policy_header([("a", 1, 1500), ("b", 2, 1000), ("c", 3, 60_001)]) == b'"a";q=1, "b";q=2;w=1, "c";q=3'
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
def test_it_writes_one_item_for_each_quota(count: int) -> None:
    quotas = [Quota(limit(f"limit-{number}"), number, 10 * number) for number in range(count)]

    header = ratelimit_header(quotas)

    assert header == b", ".join(
        b'"limit-%d";r=%d;t=%d' % (number, number, 10 * number) for number in range(count)
    )


@given(st.lists(st.tuples(names, numbers, numbers), min_size=1, max_size=5))
def test_it_writes_a_policy_that_a_parser_reads_back(limits: list[tuple[str, int, int]]) -> None:
    expected = [
        (name, {"q": permits} if window_ms % 1000 else {"q": permits, "w": window_ms // 1000})
        for name, permits, window_ms in limits
    ]

    assert parse(policy_header(limits)) == expected


@given(st.lists(st.tuples(names, st.integers(-50, 10**12), numbers), min_size=1, max_size=5))
def test_it_writes_quotas_that_a_parser_reads_back_never_below_zero(rows: list[tuple[str, int, int]]) -> None:
    quotas = [Quota(limit(name), remaining, reset_s) for name, remaining, reset_s in rows]

    assert parse(ratelimit_header(quotas)) == [
        (name, {"r": max(0, remaining), "t": reset_s}) for name, remaining, reset_s in rows
    ]


def test_it_shows_old_clients_the_quota_that_refuses_next() -> None:
    quotas = [
        Quota(limit("minute", 100), 7, 30),
        Quota(limit("hour", 1000), 2, 900),
        Quota(limit("day"), 9, 1),
    ]

    lines = legacy_headers(quotas)

    assert lines == b"X-RateLimit-Limit: 1000\r\nX-RateLimit-Remaining: 2\r\nX-RateLimit-Reset: 900\r\n"


def test_it_shows_old_clients_the_longest_wait_among_equals() -> None:
    quotas = [Quota(limit("minute", 100), 0, 30), Quota(limit("hour", 1000), 0, 900)]

    assert b"X-RateLimit-Reset: 900\r\n" in legacy_headers(quotas)


def test_it_shows_old_clients_nothing_below_zero_and_nothing_without_quotas() -> None:
    assert b"X-RateLimit-Remaining: 0\r\n" in legacy_headers([Quota(limit("minute"), -3, 30)])
    assert legacy_headers([]) == b""


def parse(header: bytes) -> list[tuple[str, dict[str, int]]]:
    """A List of Strings with Integer parameters (RFC 9651, 4.2), and not a byte more."""
    text = header.decode("ascii")
    items: list[tuple[str, dict[str, int]]] = []
    at = 0
    while True:
        assert text[at] == '"'
        end = text.index('"', at + 1)
        name = text[at + 1 : end]
        assert "\\" not in name
        at = end + 1
        parameters: dict[str, int] = {}
        while at < len(text) and text[at] == ";":
            key, equals = text[at + 1], text[at + 2]
            assert key.islower()
            assert equals == "="
            at += 3
            digits = ""
            while at < len(text) and text[at].isdigit():
                digits += text[at]
                at += 1
            assert 1 <= len(digits) <= 15
            assert key not in parameters
            parameters[key] = int(digits)
        items.append((name, parameters))
        if at == len(text):
            return items
        assert text[at : at + 2] == ", "
        at += 2
