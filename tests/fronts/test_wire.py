"""Malformed, oversized and smuggling-shaped input: what is refused, with which status, in whose form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.fronts import Head
from sidecar.fronts.wire import PIECE, MessageReader, WireLimits
from tests.fronts.doubles import Plane, ask_api, ask_nginx, only, parse, statuses

HOST = b"Host: gate\r\n"
FORWARD = b"GET /auth/forward HTTP/1.1\r\n" + HOST
POST = b"POST /auth/forward HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def refusal_of(data: bytes) -> int | None:
    """The status a reader refuses these bytes with, when fed whole; None when it does not."""
    reader = MessageReader(WireLimits())
    for start in range(0, len(data), PIECE):
        reader.feed(data[start : start + PIECE])
        if reader.refusal is not None:
            return reader.refusal.status
    return None


MALFORMED = {
    "bare LF after the request line": b"GET /auth/forward HTTP/1.1\nHost: gate\r\n\r\n",
    "bare LF after a header": FORWARD + b"A: 1\nB: 2\r\n\r\n",
    "bare LF at the end": FORWARD + b"\n",
    "bare CR in a header": FORWARD + b"A: 1\rB: 2\r\n\r\n",
    "folded line": FORWARD + b"A: 1\r\n b\r\n\r\n",
    "folded line with a tab": FORWARD + b"A: 1\r\n\tb\r\n\r\n",
    "blank before the first header": b"GET /auth/forward HTTP/1.1\r\n Host: gate\r\n\r\n",
    "blank before a colon": FORWARD + b"A : 1\r\n\r\n",
    "tab before a colon": FORWARD + b"A\t: 1\r\n\r\n",
    "no colon": FORWARD + b"A\r\n\r\n",
    "no name": FORWARD + b": 1\r\n\r\n",
    "name with a NUL": FORWARD + b"A\x00: 1\r\n\r\n",
    "name outside ASCII": FORWARD + b"A\xc3\xa9: 1\r\n\r\n",
    "name with a parenthesis": FORWARD + b"A(): 1\r\n\r\n",
    "value with a NUL": FORWARD + b"A: a\x00b\r\n\r\n",
    "value with a control character": FORWARD + b"A: a\x08b\r\n\r\n",
    "no Host": b"GET /auth/forward HTTP/1.1\r\n\r\n",
    "two Hosts": FORWARD + b"Host: gate\r\n\r\n",
    "two different Hosts": FORWARD + b"hOST: other\r\n\r\n",
    "HTTP/0.9": b"GET /auth/forward\r\n\r\n",
    "HTTP/0.9 by name": b"GET /auth/forward HTTP/0.9\r\n\r\n",
    "HTTP/1.2": b"GET /auth/forward HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"GET /auth/forward HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/3": b"GET /auth/forward HTTP/3\r\n" + HOST + b"\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "the PROXY protocol": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + FORWARD + b"\r\n",
    "blank in the target": b"GET /auth/for ward HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the target": b"GET /auth/forward\x00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "high bytes in the target": b"GET /auth/\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "target without a slash": b"GET auth HTTP/1.1\r\n" + HOST + b"\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "the same length twice": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "a signed length": POST + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": POST + b"Content-Length: -3\r\n\r\nabc",
    "a hexadecimal length": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "an empty length": POST + b"Content-Length:\r\n\r\nabc",
    "a length beyond all numbers": POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    "length and coding": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "a coding that is not chunked": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "chunked, but not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked, then identity": CHUNKED[:-2] + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "almost chunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /auth/forward HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk without a size": CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
    "a chunk beyond all numbers": CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "a blank after the chunk's size": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "bare LF after the chunk's size": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
    "a body after Upgrade": POST + b"Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\nabc",
    "chunks after Upgrade": POST
    + b"Connection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_it_answers_400_and_closes(data: bytes) -> None:
    plane = Plane()
    wire = plane.connect()

    answer = only(plane.send(wire, data))

    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert answer.json["code"] == "malformed"
    assert wire.over
    assert plane.gate.asked == []


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_it_never_takes_it_for_a_request_byte_by_byte(data: bytes) -> None:
    plane = Plane()
    wire = plane.connect()

    sent = plane.send(wire, *(data[index : index + 1] for index in range(len(data))))

    assert set(statuses(sent)) <= {400, 405}
    assert plane.gate.asked == []


OVERSIZED = {
    "a long target": (414, b"GET /auth/forward?" + b"a" * 17_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a target without an end": (414, b"GET /auth/envoy/" + b"a" * 80_000),
    "many headers": (431, FORWARD + b"".join(b"A%d: 1\r\n" % index for index in range(300)) + b"\r\n"),
    "one header many times": (431, FORWARD + b"A: 1\r\n" * 300 + b"\r\n"),
    "a long header": (431, FORWARD + b"A: " + b"a" * 65_600 + b"\r\n\r\n"),
    "a header without an end": (431, FORWARD + b"A: " + b"a" * 90_000),
    "a name without an end": (431, FORWARD + b"a" * 90_000),
    "long headers together": (
        431,
        FORWARD + b"".join(b"A%d: %b\r\n" % (i, b"a" * 1000) for i in range(68)) + b"\r\n",
    ),
    "a body that is announced": (413, POST + b"Content-Length: 65537\r\n\r\n"),
    "a body in chunks": (413, CHUNKED + (b"2000\r\n" + b"a" * 0x2000 + b"\r\n") * 9),
    "a chunk that is announced": (413, CHUNKED + b"ffffffff\r\n" + b"a" * 70_000),
    "a body in the smallest chunks": (413, CHUNKED + b"1\r\na\r\n" * 70_000),
    "chunk extensions": (413, CHUNKED + b"1;" + b"a" * 300_000),
    "one trailer many times": (413, CHUNKED + b"0\r\n" + b"A: 1\r\n" * 50_000),
    "many trailers": (431, CHUNKED + b"0\r\n" + b"".join(b"A%d: 1\r\n" % index for index in range(5000))),
    "a trailer without an end": (413, CHUNKED + b"0\r\nA: " + b"a" * 300_000),
    "an unknown method": (405, b"FROBNICATE /auth/forward HTTP/1.1\r\n" + HOST + b"\r\n"),
}


@pytest.mark.parametrize(("status", "data"), OVERSIZED.values(), ids=OVERSIZED.keys())
def test_it_refuses_what_is_too_much(status: int, data: bytes) -> None:
    plane = Plane()
    wire = plane.connect()

    answer = only(plane.send(wire, data))

    assert answer.status == status
    assert answer.json["status"] == status
    assert wire.over
    assert plane.gate.asked == []


@pytest.mark.parametrize(("status", "data"), OVERSIZED.values(), ids=OVERSIZED.keys())
def test_it_refuses_in_nginxs_form_on_its_path(status: int, data: bytes) -> None:
    plane = Plane()
    wire = plane.connect()

    answer = only(
        plane.send(
            wire, data.replace(b"/auth/forward", b"/auth/nginx").replace(b"/auth/envoy/", b"/auth/nginx?")
        )
    )

    assert (answer.status, answer.body) == (403, b"")
    assert answer.headers["x-portcullis-status"] == str(status)
    assert answer.headers["x-portcullis-reason"] == ("method" if status == 405 else "malformed")


def test_it_takes_more_than_the_proxies_let_through() -> None:
    many = b"".join(b"A%d: 1\r\n" % index for index in range(250))
    long = b"".join(b"B%d: %b\r\n" % (index, b"b" * 15_000) for index in range(4))

    assert refusal_of(FORWARD + many + b"\r\n") is None
    assert refusal_of(FORWARD + long + b"\r\n") is None
    assert refusal_of(b"GET /auth/envoy/" + b"a" * 16_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n") is None
    assert refusal_of(POST + b"Content-Length: 65536\r\n\r\n" + b"a" * 65_536) is None


@pytest.mark.parametrize("size", [65_000, 66_000])
@pytest.mark.parametrize("piece", [1, 1000, PIECE])
def test_it_measures_heads_alike_in_any_pieces(size: int, piece: int) -> None:
    head = FORWARD + b"A: 1\r\n" + b"B: "
    data = head + b"b" * (size - len(head)) + b"\r\n\r\n"
    reader = MessageReader(WireLimits())

    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
        if reader.refusal is not None:
            break

    assert (reader.refusal is None) == (size < 65_536)
    assert len(reader.messages) == (size < 65_536)


def test_it_answers_405_to_envoy_for_a_method_that_it_does_not_know() -> None:
    plane = Plane()

    answer = only(plane.send(plane.connect(), b"FROB /auth/envoy/a HTTP/1.1\r\nHost: shop.example\r\n\r\n"))

    assert answer.status == 405
    assert answer.json["code"] == "method"
    assert "GET" in answer.headers["allow"]


def test_it_says_nothing_of_what_was_sent_in_a_refusal() -> None:
    plane = Plane()

    sent = plane.send(plane.connect(), FORWARD + b"X-Api-Key: s3cr3t\r\nbro ken: s3cr3t\r\n\r\n")

    assert b"s3cr3t" not in sent


def test_it_drops_trailers() -> None:
    reader = MessageReader(WireLimits())

    reader.feed(CHUNKED + b"3\r\nabc\r\n0\r\nX-Forwarded-For: 192.0.2.66\r\nHost: evil\r\n\r\n")

    (head,) = reader.messages
    assert head.body == b"abc"
    assert head.headers == {b"host": b"gate", b"transfer-encoding": b"chunked"}
    assert head.repeated == ()


def test_it_joins_repeated_headers_and_names_them() -> None:
    reader = MessageReader(WireLimits())

    reader.feed(
        FORWARD
        + b"X-Forwarded-For: 192.0.2.1 \r\nx-forwarded-for: 10.0.0.1\r\nA:  1\t\r\na: 2\r\nA:\r\nB:\r\nC: 3\r\n\r\n"
    )

    (head,) = reader.messages
    assert head.headers == {
        b"host": b"gate",
        b"x-forwarded-for": b"192.0.2.1, 10.0.0.1",
        b"a": b"1, 2, ",
        b"b": b"",
        b"c": b"3",
    }
    assert set(head.repeated) == {b"a"}


def test_it_forgets_one_request_before_the_next() -> None:
    reader = MessageReader(WireLimits())

    reader.feed(POST + b"A: 1\r\nA: 2\r\nContent-Length: 3\r\n\r\nabc" + FORWARD + b"\r\n")

    first, second = reader.messages
    assert first.body == b"abc"
    assert (second.method, second.headers, second.repeated, second.body) == (
        b"GET",
        {b"host": b"gate"},
        (),
        b"",
    )


def described(head: Head) -> tuple[object, ...]:
    return (head.method, head.target, head.headers, head.repeated, head.body, head.keep_alive)


VALID = (
    ask_nginx(),
    ask_nginx(more=["X-Forwarded-For: 1", "X-Forwarded-For: 2", "A: 1", "A: 2"]),
    ask_nginx(more=["Connection: Upgrade", "Upgrade: websocket"]),
    ask_api({"address": "192.0.2.1"}),
    CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n",
    b"\r\n\r\n" + ask_nginx(),
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
)


@given(st.lists(st.sampled_from(VALID), min_size=1, max_size=6), st.data())
def test_it_reads_the_same_in_any_pieces(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(messages)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=12)))
    whole, pieces = MessageReader(WireLimits()), MessageReader(WireLimits())

    for start in range(0, len(stream), PIECE):
        whole.feed(stream[start : start + PIECE])
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        pieces.feed(stream[start:end])

    assert whole.refusal is None
    assert pieces.refusal is None
    assert [described(head) for head in pieces.messages] == [described(head) for head in whole.messages]
    assert len(whole.messages) == len(messages)
    assert not pieces.mid


def test_it_answers_what_came_before_the_refused() -> None:
    plane = Plane()
    wire = plane.connect()

    answers = parse(plane.send(wire, ask_nginx() + ask_nginx() + MALFORMED["folded line"] + ask_nginx()))

    assert [answer.status for answer in answers] == [200, 200, 400]
