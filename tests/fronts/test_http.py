"""The check plane's connections: order, ends, and what HTTP asks of a server besides."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.model import Reason, Verdict
from tests.fronts.doubles import (
    ALLOWED,
    LIMITED,
    Gate,
    Plane,
    ask_api,
    ask_envoy,
    ask_forward,
    ask_nginx,
    only,
    parse,
    statuses,
)

SLOW = "192.0.2.1"
SLOW_TOO = "192.0.2.2"


def slow_plane() -> Plane:
    return Plane(
        gate=Gate(slow={SLOW, SLOW_TOO}),
    )


# --- order ---------------------------------------------------------------------


def test_it_answers_and_keeps_the_connection() -> None:
    plane = Plane()
    wire = plane.connect()

    first = only(plane.send(wire, ask_forward()))
    second = only(plane.send(wire, ask_forward()))

    assert first.status == second.status == 200
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert "connection" not in second.headers
    assert not wire.over


def test_it_joins_the_answers_of_what_arrived_together() -> None:
    plane = Plane(gate=Gate(verdicts={"192.0.2.9": LIMITED}))
    wire = plane.connect()

    answers = parse(plane.send(wire, ask_forward() + ask_forward("192.0.2.9") + ask_forward()))

    assert [answer.status for answer in answers] == [200, 429, 200]
    assert wire.writes == 1


def test_it_answers_in_order_when_an_earlier_one_waits() -> None:
    plane = slow_plane()
    wire = plane.connect()

    assert plane.send(wire, ask_forward(SLOW, more=["X-Request-Id: one"]) + ask_forward("bad")) == b""
    plane.gate.answer_all()

    answers = parse(wire.sent)
    assert answers[0].headers["x-request-id"] == "one"
    assert [answer.status for answer in answers] == [200, 200]


@given(st.permutations(range(5)), st.booleans())
def test_it_answers_in_order_whatever_the_order_of_the_verdicts(order: list[int], at_once: bool) -> None:
    plane = slow_plane()
    wire = plane.connect()
    asks = [ask_forward(SLOW, more=[f"X-Request-Id: {index}"]) for index in range(5)]
    plane.send(wire, *([b"".join(asks)] if at_once else asks))
    waiting = list(plane.gate.waiting)

    for index in order:
        request, waiter = waiting[index]
        waiter.answer(plane.gate.judge(request))

    assert [answer.headers["x-request-id"] for answer in parse(wire.sent)] == list("01234")


def test_it_serves_on_after_a_verdict_that_came_late() -> None:
    plane = slow_plane()
    wire = plane.connect()
    plane.send(wire, ask_forward(SLOW))
    plane.gate.answer_all()

    assert statuses(plane.send(wire, ask_forward(), ask_forward(SLOW))) == [200]
    plane.gate.answer_all()

    assert statuses(wire.sent) == [200, 200, 200]


def test_it_harms_nobody_when_a_client_goes_away_while_its_decision_waits() -> None:
    plane = slow_plane()
    gone, stays = plane.connect(), plane.connect()
    plane.send(gone, ask_forward(SLOW) + ask_forward(SLOW_TOO))
    plane.send(stays, ask_forward(SLOW))

    gone.close()
    plane.gate.answer_all()

    assert gone.sent == b""
    assert statuses(stays.sent) == [200]
    assert len(plane.observed) == 1


def test_it_counts_a_verdict_once_however_often_it_is_given() -> None:
    plane = slow_plane()
    wire = plane.connect()
    plane.send(wire, ask_forward(SLOW) + ask_forward(SLOW_TOO))
    _, waiter = plane.gate.waiting[1]

    waiter.answer(ALLOWED)
    waiter.answer(LIMITED)
    plane.gate.answer(0)

    assert statuses(wire.sent) == [200, 200]
    assert len(plane.observed) == 2


def test_it_tells_how_long_each_verdict_took() -> None:
    plane = slow_plane()
    wire = plane.connect()
    plane.send(wire, ask_envoy(SLOW, more=["X-Request-Id: r-1"]))

    plane.clock.now_s += 0.25
    plane.gate.answer_all()

    ((front, request, verdict, request_id, elapsed_s),) = plane.observed
    assert (front, request.address, verdict, request_id) == (1, SLOW, ALLOWED, b"r-1")
    assert elapsed_s == pytest.approx(0.25)


# --- ends ----------------------------------------------------------------------


def test_it_closes_when_asked_to() -> None:
    plane = Plane()
    wire = plane.connect()

    answer = only(plane.send(wire, ask_forward(more=["Connection: close"])))

    assert answer.status == 200
    assert answer.headers["connection"] == "close"
    assert wire.over


def test_it_reads_nothing_after_a_last_request() -> None:
    plane = Plane()
    wire = plane.connect()

    sent = plane.send(wire, ask_forward(more=["Connection: close"]) + ask_forward(), ask_forward())

    assert statuses(sent) == [200]
    assert len(plane.gate.asked) == 1


def test_it_closes_after_http_1_0() -> None:
    plane = Plane()
    wire = plane.connect()
    ask = ask_forward(more=["Connection: keep-alive"]).replace(b"HTTP/1.1", b"HTTP/1.0")

    assert only(plane.send(wire, ask)).headers["connection"] == "close"
    assert wire.over


def test_it_cuts_off_a_client_that_does_not_close_its_side() -> None:
    plane = Plane()
    wire = plane.connect()
    plane.send(wire, b"nonsense\r\n\r\n")
    assert wire.half_closed

    plane.sweep(after_s=1)
    assert not wire.aborted
    plane.sweep(after_s=2)

    assert wire.aborted


def test_it_answers_what_it_owes_to_a_client_that_sends_no_more() -> None:
    plane = slow_plane()
    wire = plane.connect()
    plane.send(wire, ask_forward(SLOW) + ask_forward(SLOW_TOO))

    assert wire.protocol.eof_received()
    plane.gate.answer_all()

    first, second = parse(wire.sent)
    assert "connection" not in first.headers
    assert second.headers["connection"] == "close"
    assert wire.over


def test_it_ends_with_a_client_that_leaves_in_the_middle_of_a_request() -> None:
    plane = Plane()
    wire = plane.connect()
    plane.send(wire, ask_forward()[:20])

    assert not wire.protocol.eof_received()

    assert plane.gate.asked == []


def test_it_keeps_the_order_when_a_refusal_follows_a_request_that_waits() -> None:
    plane = slow_plane()
    wire = plane.connect()
    plane.send(wire, ask_forward(SLOW) + b"nonsense\r\n\r\n")
    assert wire.sent == b""

    plane.gate.answer_all()

    assert [answer.status for answer in parse(wire.sent)] == [200, 400]
    assert wire.over


def test_it_drains() -> None:
    plane = slow_plane()
    idle, waiting, halfway, talker = (plane.connect() for _ in range(4))
    plane.send(waiting, ask_forward(SLOW) + ask_forward(SLOW_TOO))
    plane.send(halfway, ask_forward()[:30])
    plane.send(talker, ask_forward())

    plane.plane.drain()

    assert idle.closed
    assert talker.closed
    plane.send(waiting, ask_forward())
    plane.gate.answer_all()
    assert [answer.headers.get("connection") for answer in parse(waiting.sent)] == [None, "close"]
    assert waiting.over
    assert only(plane.send(halfway, ask_forward()[30:])).headers["connection"] == "close"
    assert halfway.over


def test_it_keeps_idle_connections_for_one_more_request_at_its_last_call() -> None:
    plane = Plane()
    kept, idle = plane.connect(), plane.connect()
    plane.send(kept, ask_forward())
    plane.send(kept, ask_forward())

    plane.plane.last_call()

    assert not idle.closed
    assert not kept.closed
    assert only(plane.send(kept, ask_forward())).headers["connection"] == "close"
    assert kept.over


def test_it_closes_new_connections_after_one_answer_while_it_drains() -> None:
    plane = Plane()
    plane.send(plane.connect(), ask_forward())
    plane.plane.drain()
    late = plane.connect()

    assert only(plane.send(late, ask_forward())).headers["connection"] == "close"
    assert late.over


def test_it_stops_at_once_when_told_to() -> None:
    plane = slow_plane()
    wire = plane.connect()
    plane.send(wire, ask_forward(SLOW))

    plane.plane.stop()

    assert wire.aborted
    assert not plane.plane.connections


# --- the rest ------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", [b"/", b"/auth", b"/auth/envoy", b"/auth/nginx/", b"*", b"http://gate/auth/nginx"]
)
def test_it_answers_404_where_no_front_is(target: bytes) -> None:
    plane = Plane()
    wire = plane.connect()

    answer = only(plane.send(wire, b"GET " + target + b" HTTP/1.1\r\nHost: gate\r\n\r\n"))

    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == 404
    assert not wire.over


def test_it_ignores_the_query_of_a_fronts_path() -> None:
    plane = Plane()

    sent = plane.send(plane.connect(), ask_nginx().replace(b"/auth/nginx", b"/auth/nginx?a=b"))

    assert only(sent).status == 200


def test_it_sends_no_body_to_head() -> None:
    plane = Plane(gate=Gate(verdicts={"192.0.2.9": LIMITED}))
    wire = plane.connect()

    refused = only(plane.send(wire, ask_envoy("192.0.2.9", method="HEAD")), bodiless=True)
    lost = only(plane.send(wire, b"HEAD /x HTTP/1.1\r\nHost: gate\r\n\r\n"), bodiless=True)

    assert refused.status == 429
    assert int(refused.headers["content-length"]) > 0
    assert lost.status == 404


def test_it_passes_a_fit_request_id_and_replaces_others() -> None:
    plane = Plane()
    wire = plane.connect()

    passed = only(plane.send(wire, ask_forward(more=["X-Request-Id: a.B_c-1"])))
    replaced = only(plane.send(wire, ask_forward(more=["X-Request-Id: a b"])))

    assert passed.headers["x-request-id"] == "a.B_c-1"
    assert replaced.headers["x-request-id"] not in {"", "a b"}


@pytest.mark.parametrize("handshake", ["Connection: Upgrade", "Connection: keep-alive, Upgrade"])
def test_it_serves_on_after_an_upgrade(handshake: str) -> None:
    plane = Plane()
    wire = plane.connect()
    upgrade = ask_nginx(more=[handshake, "Upgrade: websocket"])

    together = plane.send(wire, upgrade + ask_nginx("192.0.2.7") + upgrade)
    alone = plane.send(wire, ask_nginx("192.0.2.8"))

    assert statuses(together + alone) == [200, 200, 200, 200]
    assert [request.address for request in plane.gate.asked][-1] == "192.0.2.8"


def test_it_serves_on_after_connect() -> None:
    plane = Plane()
    wire = plane.connect()

    sent = plane.send(wire, b"CONNECT shop.example:443 HTTP/1.1\r\nHost: gate\r\n\r\n" + ask_nginx())

    assert statuses(sent) == [404, 200]


def test_it_lets_a_body_come_that_waits_to_be_asked_for() -> None:
    plane = Plane()
    wire = plane.connect()
    ask = ask_api({"address": "192.0.2.7"}, more=["Expect: 100-continue"])
    blank = ask.index(b"\r\n\r\n") + 4

    asked_for = plane.send(wire, ask[:blank])
    answer = plane.send(wire, ask[blank:])

    assert asked_for == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert only(answer).status == 200


@pytest.mark.parametrize("expects", [ask_nginx(more=["Expect: 100-continue"])])
def test_it_asks_for_no_body_where_none_is_announced(expects: bytes) -> None:
    plane = Plane()

    assert statuses(plane.send(plane.connect(), expects)) == [200]


def test_it_keeps_100_continue_in_order() -> None:
    plane = slow_plane()
    wire = plane.connect()
    ask = ask_api({"address": "192.0.2.7"}, more=["Expect: 100-continue"])
    blank = ask.index(b"\r\n\r\n") + 4

    plane.send(wire, ask_forward(SLOW) + ask[:blank], ask[blank:])
    assert wire.sent == b""
    plane.gate.answer_all()

    assert statuses(wire.sent) == [200, 100, 200]


def test_it_ignores_bodies_where_none_is_read() -> None:
    plane = Plane()
    wire = plane.connect()
    chunked = (
        ask_nginx(more=["Transfer-Encoding: chunked"]) + b"3\r\nabc\r\n0\r\nX-Real-IP: 192.0.2.66\r\n\r\n"
    )

    sent = plane.send(wire, chunked + ask_nginx())

    assert statuses(sent) == [200, 200]
    assert [request.address for request in plane.gate.asked] == ["203.0.113.9"] * 2


def test_it_tells_of_what_could_not_be_read() -> None:
    plane = Plane()
    plane.send(plane.connect(), ask_nginx(more=["Host: other"]))

    ((front, request, verdict, _, _),) = plane.observed
    assert front == 0
    assert verdict.reason is Reason.MALFORMED
    assert request.malformed is not None


def test_it_lets_a_defect_of_ours_out() -> None:
    def broken(*_: object) -> Verdict:
        raise ZeroDivisionError

    plane = Plane()
    wire = plane.connect()
    object.__setattr__(plane.plane, "check", broken)

    with pytest.raises(ZeroDivisionError):
        plane.send(wire, ask_forward())

    assert wire.sent == b""


def test_it_remembers_across_connections() -> None:
    plane = Plane()
    ask = ask_forward()
    for _ in range(3):
        plane.send(plane.connect(), ask)

    first, second, third = plane.gate.asked
    assert second is third
    assert first is second


def test_it_forgets_with_new_fronts() -> None:
    plane, other = Plane(), Plane()
    wire = plane.connect()
    plane.send(wire, ask_forward())

    plane.plane.use(fronts=[], heads=other.heads)

    assert statuses(plane.send(wire, ask_forward())) == [404]


def test_it_makes_ids_that_differ() -> None:
    plane = Plane()
    wire = plane.connect()

    sent = plane.send(wire, *itertools.repeat(ask_forward(), 100))

    assert len({answer.headers["x-request-id"] for answer in parse(sent)}) == 100
