"""What Envoy asks, and what it understands of an answer."""

from __future__ import annotations

import pytest

from sidecar.core.model import Reason, Request, Verdict
from tests.fronts.doubles import (
    ALLOWED,
    ATTACKED,
    LIMITED,
    NO_KEY,
    READABLE,
    Answer,
    envoy,
    head,
    known,
    only,
    readable,
    told,
)

ASKED = {b"host": b"Shop.Example:8443", b"x-real-ip": b"203.0.113.9"}


def read(
    target: bytes = b"/auth/envoy/a/b?c=d", headers: dict[bytes, bytes] | None = None, method: bytes = b"POST"
) -> Request:
    return envoy().read(head(target, {**ASKED, **(headers or {})}, method=method))


def write(verdict: Verdict, *, method: bytes = b"GET") -> Answer:
    data = envoy().write(read(method=method), verdict, b"id-1", True)
    return only(data, bodiless=method == b"HEAD")


def test_it_reads_what_envoy_sends() -> None:
    request = read(headers={b"x-original-length": b"7", b"x-original-tls": b"TLSv1.2", b"x-api-key": b"k"})

    assert (request.address, request.method, request.host, request.path) == (
        "203.0.113.9",
        "POST",
        "shop.example",
        "/a/b",
    )
    assert (request.content_length, request.tls, request.key, request.malformed) == (7, "1.2", b"k", None)
    assert request.query == b"c=d"


def test_it_does_not_take_envoys_own_length_for_the_clients() -> None:
    assert read(headers={b"content-length": b"0"}).content_length is None


@pytest.mark.parametrize(
    "name",
    [
        b"x-forwarded-for",
        b"forwarded",
        b"x-forwarded-host",
        b"x-forwarded-uri",
        b"x-forwarded-method",
        b"x-original-uri",
        b"x-original-url",
        b"x-original-method",
    ],
)
def test_it_reads_no_other_fronts_headers(name: bytes) -> None:
    request = read(headers={name: b"192.0.2.66"})

    assert (request.address, request.host, request.path) == ("203.0.113.9", "shop.example", "/a/b")
    assert (request.method, request.malformed) == ("POST", None)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/auth/envoy/", "/", b""),
        (b"/auth/envoy/?a", "/", b"a"),
        (b"/auth/envoy/a?b?c=%2f", "/a", b"b?c=%2f"),
        (b"/auth/envoy//a/%41", "/a/A", b""),
        (b"/auth/envoy/auth/envoy/", "/auth/envoy/", b""),
    ],
)
def test_it_finds_path_and_query_behind_the_prefix(target: bytes, path: str, query: bytes) -> None:
    request = read(target)

    assert (request.path, request.query) == (path, query)


@pytest.mark.parametrize(
    "target", [b"/auth/envoy/..", b"/auth/envoy/../nginx", b"/auth/envoy/%2e%2e/a", b"/auth/envoy/a#b"]
)
def test_it_calls_a_path_that_leaves_malformed(target: bytes) -> None:
    assert read(target).malformed is not None


@pytest.mark.parametrize(
    "name",
    [
        b"x-real-ip",
        b"authorization",
        b"x-api-key",
        b"x-original-length",
        b"content-type",
        b"origin",
        b"access-control-request-method",
    ],
)
def test_it_refuses_single_valued_headers_that_come_twice(name: bytes) -> None:
    asked = head(b"/auth/envoy/", {**ASKED, name: b"a, b"})
    asked.repeated = (name,)

    assert envoy().read(asked).malformed is not None


def test_it_walks_along_x_forwarded_for_when_told_to() -> None:
    asked = head(b"/auth/envoy/", {**ASKED, b"x-forwarded-for": b"192.0.2.66, 198.51.100.7, 10.0.0.1"})

    assert envoy(forwarded=True).read(asked).address == "198.51.100.7"


@pytest.mark.parametrize("headers", [{}, {b"x-forwarded-for": b""}, {b"x-forwarded-for": b"junk, 10.0.0.1"}])
def test_it_knows_no_address_where_the_walk_finds_none(headers: dict[bytes, bytes]) -> None:
    assert envoy(forwarded=True).read(head(b"/auth/envoy/", {**ASKED, **headers})).address == "unknown"


def test_it_allows_with_exactly_200() -> None:
    answer = write(ALLOWED)

    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["x-portcullis-key"] == ""
    assert answer.headers["ratelimit"].startswith('"per-ip";r=50')


def test_it_says_who_was_let_in() -> None:
    assert told(write(known(ALLOWED))) == ["k_1", "acme", "gold"]
    assert "x-portcullis-key" not in write(known(LIMITED)).headers


@pytest.mark.parametrize("refused", [LIMITED, NO_KEY, ATTACKED])
def test_it_lets_an_allowed_page_read_a_refusal(refused: Verdict) -> None:
    answer = write(readable(refused))

    assert answer.headers.items() - write(refused).headers.items() == READABLE.items()


def test_it_refuses_with_the_real_status_and_a_problem() -> None:
    answer = write(LIMITED)

    assert answer.status == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["retry-after"] == "30"
    assert answer.headers["ratelimit"].startswith('"per-ip";r=50')
    assert "x-portcullis-status" not in answer.headers
    assert answer.json == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota exceeded",
        "status": 429,
        "code": "rate_limited",
        "request_id": "id-1",
        "violated-policies": ["per-ip"],
    }


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_it_never_sends_a_5xx(status: int) -> None:
    answer = write(Verdict(Reason.ATTACK_MODE, status=status, retry_after_s=60))

    assert answer.status == 403
    assert answer.headers["x-portcullis-status"] == str(status)
    assert answer.headers["retry-after"] == "60"
    assert answer.json["status"] == 403
    assert answer.json["code"] == "attack_mode"


@pytest.mark.parametrize("reason", [reason for reason in Reason if not reason.allowed])
def test_it_refuses_with_nothing_that_envoy_would_take_for_a_failure(reason: Reason) -> None:
    assert 400 <= write(Verdict(reason)).status < 500


def test_it_sends_no_body_to_head() -> None:
    assert write(ATTACKED, method=b"HEAD").body == b""


def test_it_names_a_scheme_where_a_credential_is_missing() -> None:
    answer = write(NO_KEY)

    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "code": "credential_missing",
        "request_id": "id-1",
    }
