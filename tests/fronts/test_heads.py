"""What is remembered of heads, what is not, and for how long."""

from __future__ import annotations

import pytest

from sidecar.core.model import Request
from sidecar.fronts import Head
from sidecar.fronts.heads import LONGEST, HeadTable
from tests.fronts.doubles import KEYS, REGISTRY, head, nginx

FRONT = nginx()


def request(**members: object) -> Request:
    made = Request(address="203.0.113.9", method="GET", host="", path="/", headers={})
    for name, value in members.items():
        setattr(made, name, value)
    return made


def table(**bounds: int) -> HeadTable:
    return HeadTable(credential_headers=(*KEYS, b"x-who"), **bounds)


def remembered(
    asked: Head | None = None, read: Request | None = None, data: bytes = b"head", **bounds: int
) -> bool:
    heads = table(**bounds)
    heads.offer(data, asked or head(b"/auth/nginx", {b"host": b"gate"}), FRONT, read or request())
    return heads.find(data) is not None


def fill(heads: HeadTable, *names: bytes) -> None:
    for name in names:
        heads.offer(name, head(b"/auth/nginx", {}), FRONT, request())


def test_it_remembers_what_bytes_were_read_as() -> None:
    heads = table()
    read = request()
    heads.offer(b"head", head(b"/auth/nginx", {b"user-agent": b"curl"}), FRONT, read)

    assert heads.find(b"head") == (FRONT, read)
    assert heads.find(b"Head") is None


@pytest.mark.parametrize(
    "name",
    [
        b"authorization",
        b"proxy-authorization",
        b"cookie",
        b"x-api-key",
        b"x-who",
        b"x-auth-token",
        b"x-amz-security-token",
        b"x-csrf-token",
        b"x-client-secret",
        b"x-session",
        b"jsessionid",
        b"x-password",
        b"x-forwarded-client-cert",
        b"x-jwt-assertion",
        b"sec-websocket-key",
        b"x-hub-signature-256",
    ],
)
def test_it_keeps_no_secret(name: bytes) -> None:
    assert not remembered(head(b"/auth/nginx", {b"host": b"gate", name: b"s3cr3t"}))


@pytest.mark.parametrize(
    "name",
    [
        b"user-agent",
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"x-real-ip",
        b"x-forwarded-for",
        b"x-original-tls",
        b"sec-fetch-site",
        b"sec-ch-ua-mobile",
        b"upgrade-insecure-requests",
        b"if-none-match",
        b"cache-control",
        b":authority",
    ],
)
def test_it_keeps_what_browsers_send(name: bytes) -> None:
    assert remembered(head(b"/auth/nginx", {b"host": b"gate", name: b"?0"}))


@pytest.mark.parametrize("name", [b"x-original-uri", b"x-original-url", b"x-forwarded-uri", b"referer"])
def test_it_keeps_no_query(name: bytes) -> None:
    assert not remembered(head(b"/auth/nginx", {name: b"/a?token=s3cr3t"}))


def test_it_keeps_no_query_of_a_target() -> None:
    assert not remembered(head(b"/auth/envoy/a?token=s3cr3t", {}))


def test_it_keeps_nothing_that_had_a_key_a_body_or_a_fault() -> None:
    assert not remembered(read=request(key=b"k"))
    assert not remembered(read=request(malformed="path"))
    assert not remembered(read=request(query=b"token=s3cr3t"))
    assert not remembered(head(b"/auth/nginx", {}, body=b"a"))
    assert not remembered(data=b"a" * (LONGEST + 1))
    last = head(b"/auth/nginx", {})
    last.keep_alive = False
    assert not remembered(last)


@pytest.mark.parametrize("name", REGISTRY.names)
def test_it_keeps_nothing_that_a_registry_reads(name: bytes) -> None:
    heads = HeadTable(credential_headers=REGISTRY.names)

    heads.offer(b"head", head(b"/auth/nginx", {name: b""}), FRONT, request())

    assert heads.find(b"head") is None


def test_it_remembers_nothing_without_room() -> None:
    assert not remembered(room=0)


def test_it_forgets_the_oldest_generation() -> None:
    heads = table(room=2)

    fill(heads, b"a", b"b", b"c")
    assert heads.find(b"a") is not None
    fill(heads, b"d", b"e")

    assert heads.find(b"b") is None
    assert heads.find(b"a") is not None
    assert heads.find(b"e") is not None


def test_it_is_bounded_in_bytes() -> None:
    heads = table(room_bytes=100)

    fill(heads, *(bytes([index]) * 50 for index in range(6)))

    kept = [index for index in range(6) if heads.find(bytes([index]) * 50) is not None]
    assert len(kept) <= 4
    assert 5 in kept


def test_it_rests_when_nothing_comes_again_and_tries_again_later() -> None:
    heads = table()
    for index in range(300):
        name = b"%d" % index
        heads.find(name)
        fill(heads, name)
    assert heads.find(b"0") is None

    assert any(heads.find(b"0") is not None for _ in range(8193))


def test_it_does_not_rest_while_heads_come_again() -> None:
    heads = table()
    fill(heads, b"known")

    for index in range(3000):
        heads.find(b"%d" % index)
        heads.find(b"known")

    assert heads.find(b"known") is not None
