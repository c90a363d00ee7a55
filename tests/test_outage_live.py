"""Outages for real: a gate process and a store that is stopped, killed, restarted, paused, while under load.

Deadlines are twenty times the default, silences longer still: a processor that is busy elsewhere is no
outage. That nobody waits for the end of a silence is seen in what came before what, never in seconds.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from tests.gates import Gate
from tests.operators import attack
from tests.servers import WITHIN_S, eventually
from tests.stores import StoreServer
from tests.traffic import Traffic, traffic

StartGate = Callable[..., Gate]
StartStore = Callable[..., StoreServer]
Adversity = Callable[[StoreServer], AbstractContextManager[None]]

PERMITS = 60
DEADLINE_MS = 400
OUTAGE_S = 2.0
FLAP_S = 0.6
"""Longer than the deadline: each silence is an outage."""
PAUSE_MS = 5_000
"""Of CLIENT PAUSE, which nobody can take back: longer than until the outage is noticed, and OUTAGE_S."""
STALLED_MS = 2_000
"""A deadline that leaves time to stop the gate while requests wait for the store."""
STALLED = 8
A_DEADLINE_S = 0.32768
"""Not quite one, a bucket of the histogram."""

# The window is longer than any of these tests.
RULES = f"""
limits:
  - {{name: local, per: [ip], permits: {PERMITS}, window: 5m, match: {{paths: ["/local"]}}}}
  - {{name: open, per: [ip], permits: 100000, window: 5m, outage: open, match: {{paths: ["/open"]}}}}
  - {{name: closed, per: [ip], permits: 99999, window: 5m, outage: closed, lease: never, match: {{paths: ["/closed"]}}}}
"""
PATHS = ("/local", "/open", "/closed")


def up(gate: Gate) -> bool:
    return gate.metric("portcullis_store_up") == 1


def asks_the_store(gate: Gate) -> bool:
    """Whether a fresh client's request is decided by the store."""
    before = gate.metric("portcullis_decisions_total", source="store")
    gate.forward("203.0.113.200", "/open")
    return gate.metric("portcullis_decisions_total", source="store") > before


@contextmanager
def stopped(store: StoreServer) -> Iterator[None]:
    with store.server.paused():
        yield


@contextmanager
def killed(store: StoreServer) -> Iterator[None]:
    store.server.kill()
    try:
        yield
    finally:
        store.server.start()


@contextmanager
def client_pause(store: StoreServer) -> Iterator[None]:
    """It takes commands and answers none of them."""
    with store.client() as client:
        client.client_pause(PAUSE_MS)
        yield
        client.ping()  # answered when the pause is over


@contextmanager
def flapping(store: StoreServer) -> Iterator[None]:
    """There and away, again and again; away at the end."""
    for _ in range(3):
        with store.server.paused():
            time.sleep(FLAP_S)
        time.sleep(FLAP_S)
    with store.server.paused():
        yield


@pytest.mark.parametrize("adversity", [stopped, killed, client_pause, flapping])
def test_it_follows_each_limits_policy_under_load_and_recovers(
    start_gate: StartGate, start_valkey: StartStore, adversity: Adversity
) -> None:
    store = start_valkey()
    gate = start_gate(RULES, store_url=store.url(), deadline_ms=DEADLINE_MS)
    with traffic(gate, paths=PATHS) as asked:
        eventually(lambda: len(asked.told) > 100, "the load runs")
        with adversity(store):
            eventually(lambda: not up(gate), "the outage is noticed")
            noticed_s = time.monotonic()
            time.sleep(OUTAGE_S)
            ended_s = time.monotonic()
        eventually(lambda: up(gate) and asks_the_store(gate), "the gate asks the store again")
        recovered_s = time.monotonic()
        eventually(partial(_spent, asked, recovered_s), "the load goes on until the limit is reached")

    during, after = asked.between(noticed_s, ended_s), asked.between(recovered_s)
    assert {told.status for told in during if told.path == "/closed"} == {503}
    assert {told.status for told in asked.told if told.path == "/open"} == {200}
    assert {told.status for told in after if told.path == "/closed"} == {200}
    assert {told.status for told in asked.told if told.path == "/local"} == {200, 429}
    # A store that is killed forgets, so then what it granted before is left out.
    counted = asked.between(noticed_s) if adversity is killed else asked.told
    assert PERMITS <= sum(told.allows("/local") for told in counted) <= 2 * PERMITS
    # Who asked when the outage was new had an answer before it was over.
    assert all(told.answered_s < ended_s for told in asked.told if told.sent_s < noticed_s)


def _spent(asked: Traffic, since_s: float) -> bool:
    """Whether, since then, everything was asked for, and more of one limit than there is."""
    told = asked.between(since_s)
    refused = any(one.path == "/local" and one.status == 429 for one in told)
    return refused and {one.path for one in told} == set(PATHS)


def test_it_admits_at_most_twice_the_permits_until_one_window_after_the_outage(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    window_s = 5
    store = start_valkey()
    rules = f"limits: [{{name: local, per: [ip], permits: {PERMITS}, window: {window_s}s}}]"
    gate = start_gate(rules, store_url=store.url(), deadline_ms=DEADLINE_MS)
    with traffic(gate, paths=["/"]) as asked:
        eventually(lambda: len(asked.told) > 20, "the load runs")
        with store.server.paused():
            began_s = time.monotonic()
            eventually(lambda: not up(gate), "the outage is noticed")
            time.sleep(OUTAGE_S)
        ended_s = time.monotonic()
        eventually(lambda: time.monotonic() > ended_s + window_s, "a window goes by", within_s=WITHIN_S)

    counted = [told for told in asked.between(began_s, ended_s + window_s) if told.allows("/")]
    assert PERMITS <= len(counted) <= 2 * PERMITS


def test_it_does_not_notice_that_the_stores_scripts_are_flushed(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    store = start_valkey()
    gate = start_gate(RULES, store_url=store.url())
    with store.client() as client, traffic(gate, paths=PATHS) as asked:
        for batches in range(100, 1_100, 50):
            client.script_flush()
            eventually(partial(_goes_on, asked, batches), "the load goes on")

    assert gate.metric("portcullis_store_errors_total") == 0
    assert gate.metric("portcullis_decisions_total", source="outage") == 0
    assert sum(told.allows("/local") for told in asked.told) == PERMITS


def _goes_on(asked: Traffic, count: int) -> bool:
    return len(asked.told) > count


def test_it_costs_nobody_a_wait_once_the_outage_is_known(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    store = start_valkey()
    gate = start_gate(RULES, store_url=store.url(), deadline_ms=DEADLINE_MS)
    with store.server.paused():
        gate.forward("203.0.113.1", "/open")
        eventually(lambda: not up(gate), "the outage is noticed")
        name = "portcullis_decision_seconds_bucket"
        before = gate.metric(name, le="+Inf") - gate.metric(name, le=str(A_DEADLINE_S))
        answers = [gate.forward(f"198.51.100.{n}", "/open").status for n in range(100)]
        slow = gate.metric(name, le="+Inf") - gate.metric(name, le=str(A_DEADLINE_S)) - before

    assert answers == [200] * 100
    assert slow < 50, "if each waited for the deadline, it were all of them"


# --- stalls --------------------------------------------------------------------------


def test_it_does_not_take_its_own_stall_for_an_outage(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    store = start_valkey()
    gate = start_gate(RULES, store_url=store.url(), deadline_ms=STALLED_MS)
    with ThreadPoolExecutor(STALLED) as pool:
        with store.server.paused():
            waiting = [pool.submit(gate.forward, f"203.0.113.{n}", "/closed") for n in range(STALLED)]
            eventually(lambda: gate.metric("portcullis_ledger_counters") == STALLED, "all wait for the store")
            gate.server.signal(signal.SIGSTOP)
        time.sleep(2 * STALLED_MS / 1000)  # the first batch is answered meanwhile, the next was never sent
        gate.server.signal(signal.SIGCONT)
        statuses = [each.result().status for each in waiting]

    assert statuses == [200] * STALLED
    assert gate.metric("portcullis_decisions_total", source="outage") == 0
    assert gate.metric("portcullis_store_errors_total") == 0


# --- shares ----------------------------------------------------------------------


def signs_of_life(store: StoreServer) -> dict[bytes, float]:
    """When each replica last said that it lives, in the store's milliseconds."""
    with store.client() as client:
        told = cast(
            "list[tuple[bytes, float]]", client.zrange("pc:{control}:replicas", 0, -1, withscores=True)
        )
        return dict(told)


def everybody_hears(store: StoreServer, *, replicas: int = 1) -> None:
    """Wait until each replica has twice said that it lives, and so has twice heard what the store says."""
    eventually(lambda: len(signs_of_life(store)) == replicas, "all are there")
    for _ in range(2):
        before = signs_of_life(store)
        eventually(partial(_all_later, store, before), "a sign of life of each")


def _all_later(store: StoreServer, before: dict[bytes, float]) -> bool:
    now = signs_of_life(store)
    return all(now.get(name, 0.0) > ms for name, ms in before.items())


def test_it_shares_the_permits_of_an_outage_among_the_replicas(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    store = start_valkey()
    rules = "limits: [{name: local, per: [ip], permits: 7, window: 1m}]"
    gates = [start_gate(rules, store_url=store.url()) for _ in range(2)]
    everybody_hears(store, replicas=2)

    store.server.kill()
    admitted = [[gate.forward("203.0.113.9").status for _ in range(10)].count(200) for gate in gates]
    store.server.start()

    assert sorted(admitted) == [3, 4]


def test_it_keeps_the_shares_while_the_store_flaps(start_gate: StartGate, start_valkey: StartStore) -> None:
    store = start_valkey()
    rules = f"limits: [{{name: local, per: [ip], permits: {PERMITS}, window: 5m}}]"
    gates = [start_gate(rules, store_url=store.url(), deadline_ms=DEADLINE_MS) for _ in range(2)]
    everybody_hears(store, replicas=2)

    with traffic(*gates, paths=["/"], connections=2) as asked:
        for _ in range(3):
            with flapping(store):
                eventually(lambda: not up(gates[0]) and not up(gates[1]), "the outage is noticed")
                eventually(partial(_goes_on, asked, len(asked.told) + 50), "nobody waits for its end")
            eventually(lambda: up(gates[0]) and up(gates[1]), "both ask the store again")

    assert PERMITS <= sum(told.allows("/") for told in asked.told) <= 2 * PERMITS


# --- away at the start ---------------------------------------------------------------


def test_it_starts_without_a_store_and_finds_it_later(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    store = start_valkey()
    store.server.stop()

    gate = start_gate(RULES, store_url=store.url())
    ready = json.loads(gate.admin("/readyz", token=None).body)
    alone = {path: gate.forward("203.0.113.9", path).status for path in PATHS}
    store.server.start()
    eventually(lambda: up(gate) and asks_the_store(gate), "the gate finds the store")

    assert ready["ready"]
    assert ready["checks"]["store"] == "outage policy"
    assert alone == {"/local": 200, "/open": 200, "/closed": 503}
    assert [event["event"] for event in gate.events() if event["event"].startswith("store_")] == [
        "store_down",
        "store_up",
    ]


def test_it_starts_while_the_store_says_nothing(start_gate: StartGate, start_valkey: StartStore) -> None:
    store = start_valkey()
    with store.server.paused():
        gate = start_gate(RULES, store_url=store.url(), deadline_ms=DEADLINE_MS)
        alone = gate.forward("203.0.113.9", "/closed").status
    eventually(lambda: up(gate) and asks_the_store(gate), "the gate finds the store")

    assert alone == 503


# --- attack mode -----------------------------------------------------------------------


def attacked(gate: Gate) -> bool:
    return gate.metric("portcullis_attack_mode") == 1


def test_it_follows_attack_mode_and_reads_no_silence_as_off(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    store = start_valkey()
    gate = start_gate(store_url=store.url())
    attack(store, True)
    eventually(lambda: attacked(gate), "attack mode is followed")
    refused = gate.forward("203.0.113.9")

    with store.client() as client:
        client.delete("pc:{control}:attack")
    everybody_hears(store)
    deleted = attacked(gate)
    with killed(store):
        eventually(lambda: gate.metric("portcullis_store_errors_total") > 1, "the silence is noticed")
        silent = attacked(gate)
    everybody_hears(store)
    emptied = attacked(gate)
    attack(store, False)
    eventually(lambda: not attacked(gate), "an explicit off is followed")

    assert (refused.status, json.loads(refused.body)["code"]) == (503, "attack_mode")
    assert (deleted, silent, emptied) == (True, True, True)
    assert gate.forward("203.0.113.9").status == 200
    assert [event["on"] for event in gate.events() if event["event"] == "attack_mode"] == [True, False]


@pytest.mark.parametrize("mode", ["on", "off"])
def test_it_keeps_attack_mode_on_disk(
    start_gate: StartGate, start_valkey: StartStore, directory: Path, mode: str
) -> None:
    store = start_valkey()
    other = {"on": "off", "off": "on"}[mode]
    rules = f"attack_mode: {{unknown: {other}}}"
    gate = start_gate(rules, store_url=store.url(), state_dir=directory / "state")
    attack(store, True)
    eventually(lambda: attacked(gate), "attack mode is followed")
    attack(store, mode == "on")
    everybody_hears(store)
    gate.server.stop()
    store.server.stop()

    again = start_gate(rules, store_url=store.url(), state_dir=directory / "state")

    assert again.forward("203.0.113.9").status == {"on": 503, "off": 200}[mode]


def test_it_takes_unknown_for_on_where_the_document_says_so(
    start_gate: StartGate, start_valkey: StartStore
) -> None:
    store = start_valkey()
    store.server.stop()
    gate = start_gate("attack_mode: {unknown: on, pass: [192.0.2.1]}", store_url=store.url())
    away = gate.forward("203.0.113.9").status

    store.server.start()
    everybody_hears(store)
    nothing_said = gate.forward("203.0.113.9").status
    attack(store, False)
    eventually(lambda: not attacked(gate), "an explicit off is followed")

    assert (away, nothing_said) == (503, 503)
    assert gate.forward("203.0.113.9").status == 200
