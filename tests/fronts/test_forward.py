"""What Traefik, Caddy and HAProxy ask, and what they hand on."""

from __future__ import annotations

import pytest

from sidecar.core.model import Request, Verdict
from tests.fronts.doubles import (
    ALLOWED,
    ATTACKED,
    LIMITED,
    READABLE,
    WRONG_METHOD,
    Answer,
    forward,
    head,
    known,
    only,
    readable,
    told,
)

ASKED = {
    b"host": b"gate",
    b"x-forwarded-for": b"192.0.2.66, 203.0.113.9, 10.0.0.1",
    b"x-forwarded-method": b"PROPFIND",
    b"x-forwarded-uri": b"/a//b?c=d",
    b"x-forwarded-host": b"shop.example",
    b"x-forwarded-proto": b"https",
}


def read(changes: dict[bytes, bytes | None] | None = None, *, method: bytes = b"GET") -> Request:
    headers = {name: value for name, value in {**ASKED, **(changes or {})}.items() if value is not None}
    return forward().read(head(b"/auth/forward", headers, method=method))


def write(verdict: Verdict, *, method: bytes = b"GET") -> Answer:
    return only(forward().write(read(method=method), verdict, b"id-1", True), bodiless=method == b"HEAD")


def test_it_reads_what_the_proxies_send() -> None:
    request = read()

    assert (request.address, request.method, request.host, request.path) == (
        "203.0.113.9",
        "PROPFIND",
        "shop.example",
        "/a/b",
    )
    assert (request.query, request.tls, request.malformed) == (b"c=d", None, None)


@pytest.mark.parametrize(
    "name", [b"x-real-ip", b"forwarded", b"x-original-uri", b"x-original-url", b"x-original-method"]
)
def test_it_reads_no_other_fronts_headers(name: bytes) -> None:
    request = read({name: b"192.0.2.1"})

    assert (request.address, request.method, request.path) == ("203.0.113.9", "PROPFIND", "/a/b")
    assert request.malformed is None


@pytest.mark.parametrize(
    "changes",
    [
        {b"x-forwarded-method": None},
        {b"x-forwarded-uri": None},
        {b"x-forwarded-uri": b"*"},
        {b"x-forwarded-host": b"a b"},
        {b"x-original-length": b"many"},
    ],
)
def test_it_calls_malformed_what_cannot_be_judged(changes: dict[bytes, bytes | None]) -> None:
    assert read(changes).malformed is not None


@pytest.mark.parametrize("changes", [{b"x-forwarded-for": None}, {b"x-forwarded-for": b"nobody"}])
def test_it_knows_no_address_without_a_valid_one(changes: dict[bytes, bytes | None]) -> None:
    assert read(changes).address == "unknown"


def test_it_does_without_a_host() -> None:
    request = read({b"x-forwarded-host": None})

    assert (request.host, request.malformed) == ("", None)


@pytest.mark.parametrize(
    "name",
    [
        b"x-forwarded-uri",
        b"x-forwarded-method",
        b"x-forwarded-host",
        b"x-api-key",
        b"origin",
        b"access-control-request-method",
    ],
)
def test_it_refuses_single_valued_headers_that_come_twice(name: bytes) -> None:
    asked = head(b"/auth/forward", {**ASKED, name: b"a, b"})
    asked.repeated = (name,)

    assert forward().read(asked).malformed is not None


def test_it_allows_with_200() -> None:
    answer = write(ALLOWED)

    assert (answer.status, answer.body) == (200, b"")


def test_it_says_who_was_let_in() -> None:
    assert told(write(known(ALLOWED))) == ["k_1", "acme", "gold"]
    assert "x-portcullis-key" not in write(known(LIMITED)).headers


@pytest.mark.parametrize("refused", [LIMITED, ATTACKED, WRONG_METHOD])
def test_it_lets_an_allowed_page_read_a_refusal(refused: Verdict) -> None:
    answer = write(readable(refused))

    assert answer.headers.items() - write(refused).headers.items() == READABLE.items()


@pytest.mark.parametrize(("verdict", "status"), [(LIMITED, 429), (ATTACKED, 503), (WRONG_METHOD, 405)])
def test_it_refuses_with_the_real_status(verdict: Verdict, status: int) -> None:
    answer = write(verdict)

    assert answer.status == status
    assert answer.json["status"] == status
    assert answer.headers.get("allow") == ("GET, HEAD" if status == 405 else None)


def test_it_sends_no_body_to_head() -> None:
    refused = write(LIMITED, method=b"HEAD")

    assert (refused.status, refused.body) == (429, b"")
