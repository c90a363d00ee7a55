"""Eight gates, nine processes that decide, one Valkey: from an operator's answer on, all of them obey.

Traffic goes on at every process all the time, by a path that no limit concerns and by one whose every request the
store decides. What counts is the order of events: a request sent after the answer obeys it. How long it took is
printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime

import pytest

from tests import stores
from tests.control.operators import Fleet, Propagation, command, epochs, fleet, percentile_ms, relist, switch
from tests.control.steady import steady
from tests.servers import eventually

Measured = Callable[[str], None]

RULES = """
store: {deadline_ms: 2000}
limits: [{name: asked, per: [ip], permits: 1000000, window: 1h, lease: never, outage: open, match: {paths: ["/store"]}}]
"""
CLIENT = {"/memory": ("/memory", "203.0.113.9"), "/store": ("/store", "203.0.113.9")}
OTHER = {"other": ("/store", "198.51.100.9")}
SWITCHES = 200
SOON_S = 7.0
"""Two seconds, and what a busy machine may add. Whoever waits for a silent store first takes longer."""


@pytest.fixture(scope="module")
def eight() -> Iterator[Fleet]:
    with stores.valkey() as store, fleet(store, RULES, [1, 1, 1, 1, 1, 1, 1, 2]) as running:
        yield running


def test_it_admits_nobody_from_the_answer_on_and_everybody_from_the_next(
    eight: Fleet, measured: Measured
) -> None:
    operator = eight.gates[0]
    with steady(eight.gates, CLIENT) as asked:
        before = asked.statuses(time.monotonic())
        on = command(operator, "attack", "on", "--reason", "flood", "--wait", "--wait-s", "30")
        refused = asked.statuses(on.answered_s)
        last_s = asked.last_s(200)
        off = command(operator, "attack", "off", "--wait", "--wait-s", "30")
        admitted = asked.statuses(off.answered_s)

    measured(f"the last was admitted {1000 * (on.answered_s - last_s):.0f} ms before the answer")
    assert (before, refused, admitted) == ({200}, {503}, {200})
    assert (on.status, off.status) == (0, 0), (on, off)
    assert "9 of 9 replicas have it" in on.out


def test_it_obeys_whichever_gate_is_told(eight: Fleet) -> None:
    said: list[tuple[bool, set[int]]] = []
    with steady(eight.gates, CLIENT) as asked:
        for number, gate in enumerate(eight.gates):
            on = number % 2 == 0
            switch(gate, on)
            said.append((on, asked.statuses(time.monotonic())))

    assert said == [(True, {503}), (False, {200})] * 4


def test_it_enforces_one_more_denied_prefix(eight: Fleet) -> None:
    change = ("deny", "203.0.113.0/24", "--wait", "--wait-s", "30")
    with steady(eight.gates, CLIENT | OTHER) as asked:
        added = command(eight.gates[3], "address", "add", *change)
        denied = asked.statuses(added.answered_s, *CLIENT)
        removed = command(eight.gates[7], "address", "remove", *change)
        admitted = asked.statuses(removed.answered_s, *CLIENT)
        unconcerned = asked.statuses(0, *OTHER)

    assert (added.status, removed.status) == (0, 0), (added, removed)
    assert (denied, admitted, unconcerned) == ({403}, {200}, {200})


def test_it_reaches_every_replica_with_every_switch(eight: Fleet, measured: Measured) -> None:
    taken_s = Propagation(eight.gates[0], eight.store, eight.replicas).seconds(SWITCHES)

    p50, p99, longest = (percentile_ms(taken_s, share) for share in (0.5, 0.99, 1.0))
    measured(
        f"{SWITCHES} switches, {eight.replicas} replicas: p50 {p50} ms, p99 {p99} ms, longest {longest} ms"
    )
    assert len(taken_s) == SWITCHES
    assert len(set(epochs(eight.store).values())) == 1


@pytest.mark.parametrize("store_is", ["there", "stopped"])
def test_it_lets_go_of_what_has_expired(eight: Fleet, measured: Measured, store_is: str) -> None:
    with steady(eight.gates, {"/memory": CLIENT["/memory"]}) as asked:
        answer = relist(eight.gates[0], "deny", add=["203.0.113.0/24"], for_="2s")
        answered_s = time.monotonic()
        left_s = datetime.fromisoformat(answer["until"]).timestamp() - time.time()
        with nullcontext() if store_is == "there" else eight.store.server.paused():
            denied = asked.statuses(answered_s)
            eventually(
                lambda: asked.statuses(time.monotonic()) == {200},
                "it has expired everywhere",
                within_s=SOON_S,
            )

    late_s = asked.last_s(403) - answered_s - left_s
    measured(f"the last was refused {1000 * late_s:.0f} ms after the end")
    assert 403 in denied


def test_it_comes_back_from_a_stopped_store_together(eight: Fleet) -> None:
    with steady(eight.gates, CLIENT) as asked:
        with eight.store.server.paused():
            asked.statuses(time.monotonic(), "/memory")
        switch(eight.gates[5], True)
        refused = asked.statuses(time.monotonic())
        switch(eight.gates[6], False)
        admitted = asked.statuses(time.monotonic())

    assert (refused, admitted) == ({503}, {200})
