"""What nginx and ingress-nginx ask, and what they understand of an answer."""

from __future__ import annotations

import pytest

from sidecar.core.model import Reason, Request, Verdict
from sidecar.fronts.nginx import NginxFront
from tests.fronts.doubles import (
    ALLOWED,
    ATTACKED,
    LIMITED,
    NO_KEY,
    OPAQUE,
    POLICY,
    QUOTAS,
    READABLE,
    WRONG_METHOD,
    Answer,
    head,
    known,
    nginx,
    only,
    readable,
    told,
)

ASKED = {
    b"host": b"gate",
    b"x-real-ip": b"203.0.113.9",
    b"x-original-method": b"POST",
    b"x-original-uri": b"/a/./b?c=d",
    b"x-forwarded-host": b"Shop.Example:8443",
}


def read(changes: dict[bytes, bytes | None] | None = None) -> Request:
    headers = {name: value for name, value in {**ASKED, **(changes or {})}.items() if value is not None}
    return nginx().read(head(b"/auth/nginx", headers))


def write(verdict: Verdict, *, keep_alive: bool = True) -> Answer:
    return only(nginx().write(read(), verdict, b"id-1", keep_alive))


def test_it_reads_what_nginx_sets() -> None:
    request = read(
        {
            b"x-original-tls": b"TLSv1.3",
            b"x-forwarded-proto": b"https",
            b"x-original-length": b"12",
            b"content-type": b"application/json",
            b"x-api-key": b"k-1",
            b"x-request-id": b"r-1",
        }
    )

    assert (request.address, request.method, request.host, request.path) == (
        "203.0.113.9",
        "POST",
        "shop.example",
        "/a/b",
    )
    assert (request.tls, request.content_length, request.content_type) == ("1.3", 12, b"application/json")
    assert (request.key, request.request_id, request.malformed) == (b"k-1", b"r-1", None)
    assert request.query == b"c=d"


def test_it_reads_what_ingress_nginx_sets() -> None:
    request = read(
        {
            b"x-original-uri": None,
            b"x-forwarded-host": None,
            b"x-original-url": b"https://Shop.Example:8443/a/b?c=http://d/",
        }
    )

    assert (request.host, request.path, request.malformed) == ("shop.example", "/a/b", None)
    assert request.query == b"c=http://d/"


@pytest.mark.parametrize(
    ("uri", "query"), [(b"/a", b""), (b"/a?", b""), (b"/a??b", b"?b"), (b"/a?%2f=\xff#c", b"%2f=\xff#c")]
)
def test_it_reads_the_query_as_it_was_sent(uri: bytes, query: bytes) -> None:
    request = read({b"x-original-uri": uri})

    assert (request.path, request.query, request.malformed) == ("/a", query, None)


def test_it_takes_the_host_from_the_url_and_not_from_a_client() -> None:
    request = read(
        {
            b"x-original-uri": None,
            b"x-original-url": b"http://shop.example/",
            b"x-forwarded-host": b"evil.example",
        }
    )

    assert request.host == "shop.example"


@pytest.mark.parametrize(
    "name", [b"x-forwarded-for", b"forwarded", b"x-forwarded-uri", b"x-forwarded-method"]
)
def test_it_reads_no_other_fronts_headers(name: bytes) -> None:
    request = read({name: b"192.0.2.66"})

    assert (request.address, request.method, request.path) == ("203.0.113.9", "POST", "/a/b")
    assert request.malformed is None


@pytest.mark.parametrize(
    "value", [None, b"", b"junk", b"1.2.3.4, 5.6.7.8", b"1.2.3.4:80", b"fe80::1%eth0", b"\xff"]
)
def test_it_knows_no_address_without_a_valid_one(value: bytes | None) -> None:
    request = read({b"x-real-ip": value})

    assert (request.address, request.malformed) == ("unknown", None)


def test_it_takes_a_mapped_address_for_what_it_is() -> None:
    assert read({b"x-real-ip": b"::ffff:203.0.113.9"}).address == "203.0.113.9"


@pytest.mark.parametrize(
    "changes",
    [
        {b"x-original-uri": None},
        {b"x-original-method": None},
        {b"x-original-url": b"http://shop.example/"},
        {b"x-original-uri": None, b"x-original-url": b"/a"},
        {b"x-original-uri": None, b"x-original-url": b"ftp://shop.example/a"},
        {b"x-original-uri": None, b"x-original-url": b"http:///a"},
        {b"x-original-uri": None, b"x-original-url": b"http://user@shop.example/a"},
        {b"x-original-uri": b"http://shop.example/a"},
        {b"x-original-uri": b""},
        {b"x-original-uri": b"/a/%2f"},
        {b"x-original-uri": b"/../a"},
        {b"x-original-method": b""},
        {b"x-original-method": b"GET /"},
        {b"x-forwarded-host": b"a, b"},
        {b"x-forwarded-host": b"a/b"},
        {b"x-original-length": b"-1"},
        {b"x-original-length": b"1e3"},
        {b"x-original-length": b"9" * 30},
    ],
)
def test_it_calls_malformed_what_cannot_be_judged(changes: dict[bytes, bytes | None]) -> None:
    assert read(changes).malformed is not None


@pytest.mark.parametrize(
    "name",
    [
        b"x-real-ip",
        b"x-original-uri",
        b"x-original-method",
        b"x-original-url",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-original-tls",
        b"x-original-length",
        b"authorization",
        b"x-api-key",
        b"origin",
        b"access-control-request-method",
        b"content-type",
        b"x-request-id",
        b"cookie",
    ],
)
def test_it_refuses_single_valued_headers_that_come_twice(name: bytes) -> None:
    asked = head(b"/auth/nginx", {**ASKED, name: b"a, b"})
    asked.repeated = (name,)

    assert nginx().read(asked).malformed is not None


def test_it_lets_other_headers_come_twice() -> None:
    asked = head(b"/auth/nginx", {**ASKED, b"accept": b"a, b"})
    asked.repeated = (b"accept",)

    assert nginx().read(asked).malformed is None


def test_it_allows_with_200_without_a_body() -> None:
    answer = write(ALLOWED)

    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers == {
        "content-length": "0",
        "x-request-id": "id-1",
        "x-portcullis-key": "",
        "x-portcullis-tenant": "",
        "x-portcullis-plan": "",
        "ratelimit-policy": '"per-ip";q=100;w=60, "burst";q=10',
        "ratelimit": '"per-ip";r=50;t=30, "burst";r=9;t=1',
    }


def test_it_says_who_was_let_in_and_what_shadow_rules_would_have_done() -> None:
    verdict = known(Verdict(Reason.OK, shadow=("strict", "office")))
    answer = write(verdict, keep_alive=False)

    assert told(answer) == ["k_1", "acme", "gold"]
    assert answer.headers["x-portcullis-shadow"] == "strict, office"
    assert answer.headers["connection"] == "close"
    assert "ratelimit" not in answer.headers


def test_it_says_who_was_let_in_beside_what_is_left() -> None:
    answer = write(known(Verdict(Reason.OK, quotas=QUOTAS, policy_header=POLICY)))

    assert told(answer) == ["k_1", "acme", "gold"]
    assert answer.headers["ratelimit"].startswith('"per-ip";r=50')


def test_it_tells_nobody_who_was_refused() -> None:
    answer = write(known(Verdict(Reason.SCOPE)))

    assert not [name for name in ("key", "tenant", "plan") if f"x-portcullis-{name}" in answer.headers]


@pytest.mark.parametrize("refused", [LIMITED, NO_KEY, WRONG_METHOD])
def test_it_lets_an_allowed_page_read_a_refusal(refused: Verdict) -> None:
    answer = write(readable(refused))

    assert answer.headers.items() - write(refused).headers.items() == READABLE.items()


def test_it_hides_a_limits_refusal_in_a_403() -> None:
    answer = write(LIMITED)

    assert (answer.status, answer.body) == (403, b"")
    assert answer.headers == {
        "content-length": "0",
        "x-portcullis-status": "429",
        "x-portcullis-reason": "rate_limited",
        "x-request-id": "id-1",
        "ratelimit-policy": '"per-ip";q=100;w=60, "burst";q=10',
        "ratelimit": '"per-ip";r=50;t=30, "burst";r=9;t=1',
        "retry-after": "30",
    }


def test_it_refuses_with_401_where_a_credential_is_missing() -> None:
    answer = write(NO_KEY)

    assert answer.status == 401
    assert answer.headers["x-portcullis-status"] == "401"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_it_says_which_methods_would_do() -> None:
    answer = write(WRONG_METHOD)

    assert answer.headers["x-portcullis-status"] == "405"
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("reason", [reason for reason in Reason if not reason.allowed])
def test_it_refuses_with_nothing_that_nginx_would_make_an_error_of(reason: Reason) -> None:
    answer = write(Verdict(reason))

    assert answer.status == (401 if reason.status == 401 else 403)
    assert answer.headers["x-portcullis-status"] == str(reason.status)
    assert answer.headers["x-portcullis-reason"] == reason.code
    assert answer.headers["content-length"] == "0"


@pytest.mark.parametrize("status", [0, 100, 200, 302, 600])
def test_it_refuses_even_where_the_configured_status_would_not(status: int) -> None:
    answer = write(Verdict(Reason.ATTACK_MODE, status=status))

    assert (answer.status, answer.headers["x-portcullis-status"]) == (403, "403")


def test_it_tells_when_to_come_back_after_an_attack() -> None:
    assert write(ATTACKED).headers["retry-after"] == "60"


def test_it_adds_the_older_headers_when_told_to() -> None:
    front = NginxFront(credentials=OPAQUE, legacy_headers=True)

    for verdict in (ALLOWED, LIMITED):
        answer = only(front.write(read(), verdict, b"id-1", True))
        assert answer.headers["x-ratelimit-limit"] == "10"
        assert answer.headers["x-ratelimit-remaining"] == "9"
        assert answer.headers["x-ratelimit-reset"] == "1"
