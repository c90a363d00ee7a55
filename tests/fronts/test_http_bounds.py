"""The check plane's connections against slow, greedy and numerous clients, in virtual time."""

from __future__ import annotations

import pytest

from sidecar.fronts.wire import PIECE, WireLimits
from tests.fronts.doubles import (
    Gate,
    Plane,
    ask_api,
    ask_forward,
    ask_nginx,
    only,
    statuses,
)

SLOW = "192.0.2.1"
SLOW_TOO = "192.0.2.2"


def slow_plane(**limits: int) -> Plane:
    return Plane(gate=Gate(slow={SLOW, SLOW_TOO}), limits=WireLimits(**limits))


def test_it_stops_reading_when_it_owes_too_many_answers() -> None:
    plane = slow_plane(max_waiting=4)
    wire = plane.connect()
    ask = ask_forward(SLOW)
    together = ask * 1000

    plane.send(wire, together)

    assert not wire.reading
    assert len(plane.gate.waiting) <= 4 + PIECE // len(ask) + 1


def test_it_reads_on_when_the_answers_are_given() -> None:
    plane = slow_plane(max_waiting=4)
    wire = plane.connect()
    plane.send(wire, ask_forward(SLOW) * 300)

    while plane.gate.waiting:
        plane.gate.answer_all()
        plane.loop.run()

    assert statuses(wire.sent) == [200] * 300
    assert wire.reading


def test_it_does_not_read_on_from_within_the_gates_answer() -> None:
    plane = slow_plane(max_waiting=1)
    wire = plane.connect()
    plane.send(wire, ask_forward(SLOW) + ask_forward(SLOW_TOO, more=["X-Filler: " + "x" * 2 * PIECE]))
    asked = len(plane.gate.asked)

    plane.gate.answer(0)

    assert len(plane.gate.asked) == asked == 1
    plane.loop.run()
    assert len(plane.gate.asked) == 2


def test_it_stops_reading_from_a_client_that_does_not_take_its_answers() -> None:
    plane = Plane()
    wire = plane.connect()
    wire.room = 1000

    plane.send(wire, ask_forward() * 4000)

    assert not wire.reading
    assert len(wire.sent) < 64 * 1024
    wire.takes_again()
    assert statuses(wire.sent) == [200] * 4000
    assert wire.reading


def test_it_cuts_off_a_client_that_never_takes_its_answers() -> None:
    plane = Plane()
    wire = plane.connect()
    wire.room = 0
    plane.send(wire, ask_forward())

    plane.sweep(after_s=11)

    assert wire.aborted


def test_it_turns_connections_away_above_their_number() -> None:
    plane = Plane(limits=WireLimits(max_connections=1))
    first = plane.connect()

    second = plane.connect()

    assert second.aborted
    assert plane.plane.turned_away == 1
    assert statuses(plane.send(first, ask_forward())) == [200]
    first.close()
    assert statuses(plane.send(plane.connect(), ask_forward())) == [200]


# --- slowness ------------------------------------------------------------------


def test_it_closes_idle_connections() -> None:
    plane = Plane()
    quiet, busy = plane.connect(), plane.connect()
    plane.sweep(after_s=40)
    plane.send(busy, ask_forward())

    plane.sweep(after_s=40)

    assert quiet.closed
    assert not busy.over
    assert quiet.sent == b""


def test_it_does_not_take_empty_lines_for_life() -> None:
    plane = Plane()
    wire = plane.connect()
    for _ in range(8):
        plane.send(wire, b"\r\n")
        plane.sweep(after_s=9.5)

    assert wire.closed


@pytest.mark.parametrize("step", [1, 7])
def test_it_answers_408_to_a_request_that_dribbles(step: int) -> None:
    plane = Plane()
    wire = plane.connect()
    ask = ask_forward(more=["X-Filler: " + "x" * 200])
    for start in range(0, 10 * step, step):
        plane.send(wire, ask[start : start + step])
        plane.sweep(after_s=0.99)
    assert wire.sent == b""

    plane.sweep(after_s=0.2)

    answer = only(wire.sent)
    assert answer.status == 408
    assert answer.headers["connection"] == "close"
    assert wire.over


def test_it_answers_408_in_the_fronts_form_once_the_path_is_known() -> None:
    plane = Plane()
    wire = plane.connect()
    plane.send(wire, ask_nginx()[:-10])

    plane.sweep(after_s=11)

    answer = only(wire.sent)
    assert answer.status == 403
    assert answer.headers["x-portcullis-status"] == "408"
    assert answer.headers["x-portcullis-reason"] == "malformed"


def test_it_answers_408_to_a_body_that_does_not_come() -> None:
    plane = Plane()
    wire = plane.connect()
    plane.send(wire, ask_api({"address": "192.0.2.7"})[:-1])

    plane.sweep(after_s=11)

    assert only(wire.sent).status == 408


def test_it_gives_each_of_many_requests_its_own_time() -> None:
    plane = Plane()
    wire = plane.connect()
    ask = ask_forward()
    data = ask[:10]
    for _ in range(5):
        plane.send(wire, data)
        plane.sweep(after_s=6)
        data = ask[10:] + ask[:10]

    assert statuses(wire.sent) == [200] * 4
    assert not wire.over


def test_it_does_not_hurry_the_gate() -> None:
    plane = slow_plane()
    wire = plane.connect()
    plane.send(wire, ask_forward(SLOW))

    plane.sweep(after_s=100)

    assert not wire.over
