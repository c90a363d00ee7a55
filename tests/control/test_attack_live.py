"""Dropping the gate in front of a real application: what clients of the shipped nginx.conf see, and the way back.

Whatever an operator has shut out, the switch itself, health and metrics answer.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.control.operators import ask, command, relist, switch
from tests.fronts.shipped import House, house, problem
from tests.gates import TOKEN
from tests.servers import Answer, eventually

EVERYBODY = ("0.0.0.0/0", "::/0")
PASSES = "127.0.0.77"


@pytest.fixture(scope="module")
def shop() -> Iterator[House]:
    with house("nginx", f"limits: []\nattack_mode: {{pass: [{PASSES}]}}") as built:
        yield built


def reasons(answer: Answer) -> tuple[int, str, str | None, str | None]:
    """What a refused client is told: status, code, and the headers that say what to do about it."""
    told = problem(answer)["code"]
    return answer.status, told, answer.headers["Retry-After"], answer.headers["Cache-Control"]


def plane(shop: House) -> dict[str, int]:
    """What operators and their machines ask, and the status of each answer."""
    gate = shop.gate
    asked = {name: gate.admin(name, token=None).status for name in ("/livez", "/readyz", "/metrics")}
    shown = (
        "/v1/attack",
        "/v1/addresses/deny",
        "/v1/fleet",
        "/v1/audit",
        "/v1/keys",
        "/v1/overrides",
        "/v1/top",
    )
    return asked | {name: gate.admin(name, token=TOKEN).status for name in shown}


def test_it_drops_and_raises_the_gate_in_front_of_an_application(shop: House) -> None:
    on = command(shop.gate, "attack", "on", "--reason", "flood", "--for", "1h", "--wait", "--wait-s", "30")
    shop.application.forget()
    refused = shop.ask("/orders?page=2")
    seen = len(shop.application.seen())
    passed = shop.ask("/orders", address=PASSES)
    log = shop.logged(refused)
    off = command(shop.gate, "attack", "off", "--wait", "--wait-s", "30")
    admitted = shop.ask("/orders")

    assert (on.status, off.status) == (0, 0), (on, off)
    status, code, retry_after, cache = reasons(refused)
    assert (status, code, cache, seen) == (503, "attack_mode", "no-store", 0)
    assert retry_after is not None
    assert retry_after.isdigit()
    assert (log["reason"], passed.status, admitted.status) == ("attack_mode", 200, 200)


def test_it_denies_a_client_at_once(shop: House) -> None:
    with shop.client() as client:
        before = client.ask("/").status
        added = command(
            shop.gate, "address", "add", "deny", client.address, "--for", "1h", "--wait", "--wait-s", "30"
        )
        refused = client.ask("/")
        removed = command(shop.gate, "address", "remove", "deny", client.address, "--wait", "--wait-s", "30")
        after = client.ask("/").status

    assert (added.status, removed.status) == (0, 0), (added, removed)
    assert (before, *reasons(refused), after) == (200, 403, "address_denied", None, "no-store", 200)


def test_it_lets_nobody_lock_the_switch_away(shop: House) -> None:
    well = plane(shop)
    relist(shop.gate, "deny", add=list(EVERYBODY), reason="everybody out")
    relist(shop.gate, "pass", remove=[PASSES])
    switch(shop.gate, True, reason="and the gate, too")
    shut = [shop.ask("/", address=address).status for address in (None, PASSES)]
    besieged = plane(shop)
    status = command(shop.gate, "attack", "status")
    undone = [
        command(shop.gate, "attack", "off", "--wait", "--wait-s", "30"),
        command(shop.gate, "address", "remove", "deny", *EVERYBODY, "--wait", "--wait-s", "30"),
    ]

    assert set(well.values()) == {200}
    assert besieged == well
    assert all(status >= 400 for status in shut), shut
    assert (status.status, "attack mode is on" in status.out) == (0, True)
    assert [each.status for each in undone] == [0, 0], undone
    eventually(lambda: shop.ask("/").status == 200, "clients are let in again")
    assert ask(shop.gate, "GET", "/v1/addresses/deny")[1]["entries"] == []
