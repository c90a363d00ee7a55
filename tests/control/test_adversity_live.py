"""What operators have said stays, whatever happens to the store, the gate, its workers or its configuration."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.control.between import Between, between
from tests.control.operators import (
    ask,
    command,
    done,
    epochs,
    percentile_ms,
    relist,
    switch,
    workers_of,
)
from tests.gates import Gate
from tests.servers import eventually
from tests.stores import StoreServer
from tests.test_outage_live import killed, stopped

StartGate = Callable[..., Gate]
StartStore = Callable[..., StoreServer]
Measured = Callable[[str], None]

RULES = """
store: {deadline_ms: 20}
attack_mode: {pass: [192.0.2.0/24]}
limits: [{name: few, per: [ip], permits: 1000, window: 1h, match: {paths: ["/few"]}}]
"""
PATIENT = "store: {deadline_ms: 2000}\nlimits: []"
REFUSED, PASSES, PASSES_TOO, DENIED, LIMITED = (
    "203.0.113.9",
    "192.0.2.9",
    "198.51.100.9",
    "198.51.100.66",
    "192.0.2.77",
)
SAID = {REFUSED: 503, PASSES: 200, PASSES_TOO: 200, DENIED: 403}


def say_everything(gate: Gate) -> str:
    """Attack mode, all that has a list, and an override: the epoch."""
    relist(gate, "pass", add=["198.51.100.0/24"])
    relist(gate, "deny", add=[DENIED], reason="scraper")
    done(
        gate, "PUT", "/v1/overrides", {"limit": "few", "address": LIMITED, "permits": 3, "reason": "too much"}
    )
    return str(switch(gate, True, reason="flood")["epoch"])


def verdicts(gate: Gate) -> dict[str, int]:
    return {address: gate.forward(address).status for address in SAID}


def kept(directory: Path, epoch: str) -> bool:
    """Whether the state of this epoch lies on disk."""
    path = directory / "control.json"
    return path.exists() and f'"{epoch}"' in path.read_text()


# --- the store ------------------------------------------------------------------------


@pytest.mark.parametrize("adversity", [stopped, killed])
def test_it_keeps_what_was_said_while_the_store_is_away_and_over_a_restart(
    start_gate: StartGate, start_valkey: StartStore, directory: Path, adversity: Callable[..., object]
) -> None:
    store = start_valkey()
    gate = start_gate(RULES, store_url=store.url(), state_dir=directory)
    epoch = say_everything(gate)
    before = verdicts(gate)
    eventually(lambda: kept(directory, epoch), "the state is kept")

    with stopped(store) if adversity is stopped else killed(store):
        eventually(lambda: gate.metric("portcullis_control_lag_seconds") > 2, "the silence is noticed")
        away = verdicts(gate)
        changed = ask(gate, "PUT", "/v1/attack", {"on": False})[0]
        gate.server.restart()
        again = verdicts(gate)
        few = [gate.forward(LIMITED, "/few").status for _ in range(6)]
        shown = ask(gate, "GET", "/v1/attack")[1]

    assert before == away == again == SAID
    assert changed in {503, 504}
    assert few.count(200) == 3
    assert (shown["on"], shown["known"], shown["global"]["reason"]) == (True, True, "flood")


def test_it_takes_unknown_for_on_where_the_document_says_so_until_somebody_has_spoken(
    start_gate: StartGate, start_valkey: StartStore, directory: Path
) -> None:
    store = start_valkey()
    rules = f"{PATIENT}\nattack_mode: {{unknown: on, pass: [{PASSES}]}}"
    with killed(store):
        gate = start_gate(rules, store_url=store.url(), state_dir=directory)
        away = [gate.forward(address).status for address in (REFUSED, PASSES)]
    eventually(lambda: len(epochs(store)) == 1, "the gate finds the store")
    nothing_said = gate.forward(REFUSED).status
    epoch = str(switch(gate, False)["epoch"])
    said = gate.forward(REFUSED).status
    eventually(lambda: kept(directory, epoch), "the state is kept")
    with killed(store):
        gate.server.restart()
        kept_off = gate.forward(REFUSED).status

    assert away == [503, 200]
    assert (nothing_said, said, kept_off) == (503, 200, 200)


def test_it_gives_a_store_that_lost_everything_the_last_word_again(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    store = start_valkey()
    gate = start_gate(PATIENT, store_url=store.url())
    switch(gate, True, reason="flood")
    with killed(store):
        during = gate.forward(REFUSED).status
    eventually(lambda: len(epochs(store)) == 1, "the gate finds the store")
    newcomer = start_gate(PATIENT, store_url=store.url())

    assert during == gate.forward(REFUSED).status == 503
    eventually(lambda: newcomer.forward(REFUSED).status == 503, "the newcomer is told, too")


# --- the subscription -----------------------------------------------------------------


def test_it_finds_a_change_that_nobody_told_it_of(
    start_gate: StartGate, start_valkey: StartStore, measured: Measured
) -> None:
    store = start_valkey()
    with between(store) as network:
        told = start_gate(PATIENT, store_url=store.url())
        deaf = start_gate(PATIENT, store_url=network.url)
        eventually(lambda: network.subscribed > 0, "it has subscribed")
        network.swallows = True
        taken_s = [_until_it_obeys(deaf, told, number % 2 == 0) for number in range(3)]
        confirmed = command(told, "attack", "off", "--wait", "--wait-s", "30")
        by_then = deaf.forward(REFUSED).status
        swallowed = network.swallowed
        _close(deaf, network)

    measured(f"without the subscription it took {', '.join(f'{each:.2f}' for each in taken_s)} s")
    assert swallowed >= 4
    assert (confirmed.status, by_then) == (0, 200)


def _until_it_obeys(deaf: Gate, told: Gate, on: bool) -> float:
    begun_s = time.monotonic()
    switch(told, on, wait=False)
    eventually(lambda: (deaf.forward(REFUSED).status == 503) is on, "the comparison finds it")
    return time.monotonic() - begun_s


def _close(gate: Gate, network: Between) -> None:
    """Stop a gate before its way to the store is gone."""
    network.swallows = False
    gate.server.stop()


# --- the fleet ------------------------------------------------------------------------


def test_it_names_a_replica_that_is_lost_and_none_that_has_left(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    store = start_valkey()
    operator, victim = (start_gate(PATIENT, store_url=store.url()) for _ in range(2))
    eventually(lambda: len(epochs(store)) == 2, "both are there")
    (name,) = (replica for replica in epochs(store) if f"-{victim.server.pid}-" in replica)
    leaver = start_gate(PATIENT, store_url=store.url())
    eventually(lambda: len(epochs(store)) == 3, "all are there")

    leaver.server.stop()
    left = command(operator, "attack", "on", "--wait", "--wait-s", "30")
    victim.server.kill()
    lost = command(operator, "attack", "off", "--wait", "--wait-s", "30")
    shown = command(operator, "fleet")

    assert (left.status, "2 of 2 replicas have it" in left.out) == (0, True), left
    assert (lost.status, lost.err.count("lost, silent for")) == (1, 1), lost
    assert name in lost.err
    assert "attack mode is off" in lost.out, "the change is made all the same"
    assert "1 current, 1 lost" in shown.out
    assert operator.forward(REFUSED).status == 200


def test_it_names_the_dead_worker_of_a_gate_only_until_its_successor_speaks(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    store = start_valkey()
    gate = start_gate(PATIENT, store_url=store.url(), workers=2)
    eventually(lambda: len(epochs(store)) == 2, "both are there")

    os.kill(workers_of(gate)[0], signal.SIGKILL)
    after = command(gate, "attack", "on", "--wait", "--wait-s", "30")

    assert (after.status, "2 of 2 replicas have it" in after.out) == (0, True), after


# --- the gate -------------------------------------------------------------------------


@pytest.mark.parametrize("store_is", ["there", "stopped"])
def test_it_obeys_from_a_successors_first_request_on(
    start_gate: StartGate, start_valkey: StartStore, directory: Path, store_is: str
) -> None:
    store = start_valkey()
    gate = start_gate(RULES, store_url=store.url(), workers=2, state_dir=directory)
    epoch = say_everything(gate)
    eventually(lambda: kept(directory, epoch), "the state is kept")

    with nullcontext() if store_is == "there" else stopped(store):
        for pid in workers_of(gate):
            os.kill(pid, signal.SIGKILL)
        with ThreadPoolExecutor(16) as pool:  # nobody accepts now: these wait for the successors
            refused = set(pool.map(lambda _: gate.forward(REFUSED).status, range(16)))
            denied = set(pool.map(lambda _: gate.forward(DENIED).status, range(16)))
            passed = set(pool.map(lambda _: gate.forward(PASSES_TOO).status, range(16)))

    assert (refused, denied, passed) == ({503}, {403}, {200})


def test_it_keeps_what_was_said_over_a_reload(start_gate: StartGate, start_valkey: StartStore) -> None:
    store = start_valkey()
    gate = start_gate(RULES.replace("ms: 20", "ms: 2000"), store_url=store.url())
    say_everything(gate)
    before = verdicts(gate)

    text = gate.document.read_text()
    gate.document.write_text(
        text.replace("pass: [192.0.2.0/24]", "pass: []") + "addresses: {deny: {cidrs: [192.0.2.88]}}\n"
    )
    gate.server.signal(signal.SIGHUP)
    eventually(lambda: gate.metric("portcullis_config_reloads_total", outcome="ok") == 1, "it is read")
    after = verdicts(gate)
    relist(gate, "pass", add=["192.0.2.0/24"])
    few = [gate.forward(LIMITED, "/few").status for _ in range(6)]
    told = {address: gate.forward(address).status for address in (DENIED, "192.0.2.88")}
    switch(gate, False)

    assert before == SAID
    assert after == SAID | {PASSES: 503}
    assert few.count(200) == 3
    assert told == {DENIED: 403, "192.0.2.88": 403}
    assert verdicts(gate) == {REFUSED: 200, PASSES: 200, PASSES_TOO: 200, DENIED: 403}


# --- long lists -----------------------------------------------------------------------

MANY, BATCH, PAGE = 100_000, 5_000, 1_000


def test_it_goes_on_answering_while_long_lists_are_read(
    start_gate: StartGate, start_valkey: StartStore, measured: Measured
) -> None:
    store = start_valkey()
    gate = start_gate(PATIENT, store_url=store.url())
    listed = [f"10.{number >> 8 & 255}.{number & 255}.{number >> 16}" for number in range(MANY)]
    for first in range(0, MANY, BATCH):
        relist(gate, "deny", add=listed[first : first + BATCH], wait=first + BATCH == MANY)

    seen: set[str] = set()
    most, waited_s = 0, list[float]()
    cursor: str | None = ""
    with ThreadPoolExecutor(1) as pool:
        while cursor is not None:
            asking = pool.submit(ask, gate, "GET", f"/v1/addresses/deny?limit={PAGE}&cursor={cursor}")
            begun_s = time.perf_counter()
            assert gate.forward("10.0.0.0").status == 403
            waited_s.append(time.perf_counter() - begun_s)
            status, page = asking.result()
            assert status == 200, page
            seen |= {entry["cidr"] for entry in page["entries"]}
            most, cursor = max(most, len(page["entries"])), page["cursor"]

    p50, longest = (percentile_ms(waited_s, share) for share in (0.5, 1.0))
    measured(f"an answer meanwhile took {p50} ms, the longest {longest} ms")
    assert (len(seen), most <= PAGE) == (MANY, True)
    assert ask(gate, "GET", f"/v1/addresses/deny?limit={PAGE + 1}")[0] == 400
