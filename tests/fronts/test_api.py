"""What applications ask and are told, and what they are told when they ask wrongly."""

from __future__ import annotations

import pytest

from sidecar.core.model import Limit, Quota, Reason, Verdict
from tests.fronts.doubles import (
    ALLOWED,
    ATTACKED,
    BURST,
    LIMITED,
    READABLE,
    Answer,
    Gate,
    Plane,
    ask_api,
    known,
    only,
    readable,
    told,
)

ADDRESS = "203.0.113.9"


def ask(document: object, *, verdict: Verdict = ALLOWED) -> tuple[Answer, Plane]:
    plane = Plane(gate=Gate(verdicts={ADDRESS: verdict}))
    return only(plane.send(plane.connect(), ask_api(document))), plane


def test_it_asks_the_gate_what_the_application_asks() -> None:
    answer, plane = ask(
        {
            "address": "203.0.113.9",
            "method": "POST",
            "host": "Shop.Example:80",
            "path": "/a/./b?c=d",
            "headers": {"X-Api-Key": "k-1", "Content-Type": "application/json", "Content-Length": "12"},
            "cost": 3,
        }
    )

    assert answer.status == 200
    (request,) = plane.gate.asked
    assert (request.address, request.method, request.host, request.path) == (
        "203.0.113.9",
        "POST",
        "shop.example",
        "/a/b",
    )
    assert (request.key, request.content_type, request.content_length) == (b"k-1", b"application/json", 12)
    assert (request.cost, request.headers[b"x-api-key"]) == (3, b"k-1")
    assert request.query == b"c=d"


def test_the_trace_is_that_of_who_asks_or_else_the_one_in_the_question() -> None:
    own = b"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
    client_s = {"address": ADDRESS, "headers": {"traceparent": "of the client"}}
    plane = Plane(gate=Gate())
    asked = ask_api(client_s)
    start, _, rest = asked.partition(b"\r\n")

    plane.send(plane.connect(), asked, start + b"\r\n" + own + rest)

    of_question, of_asker = (request.headers[b"traceparent"] for request in plane.gate.asked)
    assert of_question == b"of the client"
    assert of_asker == b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_it_needs_no_more_than_an_address() -> None:
    _, plane = ask({"address": "::FFFF:203.0.113.9"})

    (request,) = plane.gate.asked
    assert (request.address, request.method, request.host, request.path) == ("203.0.113.9", "GET", "", "/")
    assert (request.key, request.cost, request.content_length, request.tls) == (None, None, None, None)
    assert request.query == b""


def test_it_takes_nothing_of_the_client_from_its_own_headers() -> None:
    plane = Plane()
    headers = ["X-Api-Key: k", "X-Forwarded-For: 192.0.2.66", "Content-Type: text/plain"]

    plane.send(plane.connect(), ask_api({"address": ADDRESS}, more=headers))

    (request,) = plane.gate.asked
    assert (request.key, request.content_type, request.headers) == (None, None, {})


def test_it_answers_an_allow() -> None:
    answer, _ = ask({"address": ADDRESS})

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-portcullis-key"] == ""
    assert answer.json == {
        "allowed": True,
        "status": 200,
        "reason": "ok",
        "retry_after_s": None,
        "quotas": [
            {"name": "per-ip", "permits": 100, "window_s": 60, "remaining": 50, "reset_s": 30},
            {"name": "burst", "permits": 10, "window_s": 1.5, "remaining": 9, "reset_s": 1},
        ],
        "request_id": answer.headers["x-request-id"],
    }


def test_it_says_who_was_let_in() -> None:
    allowed, _ = ask({"address": ADDRESS}, verdict=known(ALLOWED))
    refused, _ = ask({"address": ADDRESS}, verdict=known(LIMITED))

    assert told(allowed) == ["k_1", "acme", "gold"]
    assert "x-portcullis-key" not in refused.headers


def test_it_leaves_web_pages_to_the_application() -> None:
    refused, _ = ask({"address": ADDRESS}, verdict=readable(LIMITED))

    assert not READABLE.keys() & refused.headers.keys()


@pytest.mark.parametrize(("verdict", "status"), [(LIMITED, 429), (ATTACKED, 503)])
def test_it_answers_a_refusal_with_200_and_says_so(verdict: Verdict, status: int) -> None:
    answer, _ = ask({"address": ADDRESS}, verdict=verdict)

    assert answer.status == 200
    assert answer.json["allowed"] is False
    assert answer.json["status"] == status
    assert answer.json["retry_after_s"] == verdict.retry_after_s


BAD_DOCUMENTS = {
    "nothing": (b"", "JSON"),
    "no JSON": (b"{", "JSON"),
    "not UTF-8": (b'{"address": "\xff"}', "JSON"),
    "half a surrogate": (b'{"address": "\\ud800"}', "JSON"),
    "a list": ([], "object"),
    "an unknown member": ({"address": ADDRESS, "adress": 1}, "adress"),
    "no address": ({}, "address"),
    "no address at all": ({"address": None}, "address"),
    "an address that is none": ({"address": "203.0.113.9:80"}, "address"),
    "an address that is a number": ({"address": 7}, "address"),
    "a method that is a number": ({"address": ADDRESS, "method": 1}, "method"),
    "a method that is null": ({"address": ADDRESS, "method": None}, "method"),
    "a host that is a list": ({"address": ADDRESS, "host": []}, "host"),
    "a path that is an object": ({"address": ADDRESS, "path": {}}, "path"),
    "headers in a list": ({"address": ADDRESS, "headers": [["a", "b"]]}, "headers"),
    "a header in a list": ({"address": ADDRESS, "headers": {"a": ["b"]}}, "headers"),
    "a cost of nothing": ({"address": ADDRESS, "cost": 0}, "cost"),
    "a cost below": ({"address": ADDRESS, "cost": -1}, "cost"),
    "a broken cost": ({"address": ADDRESS, "cost": 1.0}, "cost"),
    "a cost in words": ({"address": ADDRESS, "cost": "1"}, "cost"),
    "a cost that is true": ({"address": ADDRESS, "cost": True}, "cost"),
    "a cost beyond all": ({"address": ADDRESS, "cost": 2**31}, "cost"),
}


@pytest.mark.parametrize(("document", "named"), BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS.keys())
def test_it_refuses_a_document_that_the_application_got_wrong(document: object, named: str) -> None:
    answer, plane = ask(document)

    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["code"] == "malformed"
    assert named in str(answer.json["detail"])
    assert "connection" not in answer.headers
    assert plane.gate.asked == []


@pytest.mark.parametrize(
    "member",
    [
        {"path": "/a/../../b"},
        {"path": "http://shop.example/"},
        {"path": ""},
        {"method": "GET /"},
        {"method": ""},
        {"host": "a b"},
        {"host": "bücher.example"},
        {"headers": {"A": "1", "a": "2"}},
        {"headers": {"a b": "1"}},
        {"headers": {"": "1"}},
        {"headers": {"X-Api-\u212aey": "1"}},
        {"headers": {"A": "1\r\nB: 2"}},
        {"headers": {"A": "\0"}},
        {"headers": {"Content-Length": "-1"}},
    ],
)
def test_it_gives_a_verdict_on_what_the_applications_client_got_wrong(member: dict[str, object]) -> None:
    answer, _ = ask({"address": ADDRESS, **member})

    assert answer.status == 200
    assert (answer.json["allowed"], answer.json["status"], answer.json["reason"]) == (False, 400, "malformed")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_it_answers_405_to_other_methods(method: str) -> None:
    plane = Plane()
    wire = plane.connect()

    answer = only(
        plane.send(wire, f"{method} /v1/check HTTP/1.1\r\nHost: gate\r\n\r\n".encode()),
        bodiless=method == "HEAD",
    )

    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert not wire.over


def test_it_refuses_a_long_body() -> None:
    plane = Plane()
    wire = plane.connect()

    answer = only(plane.send(wire, ask_api({"address": ADDRESS, "path": "/" + "a" * 66_000})))

    assert answer.status == 413
    assert wire.over


def test_it_passes_the_applications_request_id() -> None:
    plane = Plane()

    answer = only(plane.send(plane.connect(), ask_api({"address": ADDRESS}, more=["X-Request-Id: r-1"])))

    assert (answer.headers["x-request-id"], answer.json["request_id"]) == ("r-1", "r-1")


def test_it_gives_whole_seconds_where_they_are_whole() -> None:
    hour = Limit("hour", (), permits=5, window_ms=3_600_000, slice_ms=60_000)

    answer, _ = ask(
        {"address": ADDRESS}, verdict=Verdict(Reason.OK, quotas=(Quota(hour, 1, 2), Quota(BURST, 1, 1)))
    )

    assert b'"window_s":3600,' in answer.body
    assert b'"window_s":1.5,' in answer.body
