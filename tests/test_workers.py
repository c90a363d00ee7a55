"""Several workers behind one port: they share counters, outlive each other's deaths, and end with their parent."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from pathlib import Path

import pytest

from tests import gates, stores
from tests.gates import Gate
from tests.operators import attack
from tests.servers import WITHIN_S, eventually
from tests.stores import StoreServer

ENDED = signal.SIGKILL
FIFTY = "limits: [{name: fifty, per: [ip], permits: 50, window: 1h}]"
MILLION = "limits: [{name: million, per: [ip], permits: 1000000, window: 1h}]"

StartGate = Callable[..., Gate]


def workers_of(gate: Gate) -> list[int]:
    """The pids of the workers that live now: the children of the gate that run `sidecar.worker`."""
    children = Path(f"/proc/{gate.server.pid}/task/{gate.server.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"sidecar.worker" in command_of(int(pid))]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    """Whether a worker runs; one that nobody has waited for yet does not."""
    return b"sidecar.worker" in command_of(pid)


class Client(threading.Thread):
    """Asks on one connection until told to stop; remembers when its connection broke."""

    def __init__(self, gate: Gate, address: str) -> None:
        super().__init__()
        self.answered = 0
        self.broken = 0
        self._port = gate.check_port
        self._body = json.dumps({"address": address})
        self._stop_asking = threading.Event()

    def run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=WITHIN_S)
        while not self._stop_asking.is_set():
            try:
                connection.request("POST", "/v1/check", self._body)
                answer = connection.getresponse()
                answer.read()
            except (HTTPException, OSError):
                self.broken += 1
                connection.close()
            else:
                assert answer.status == 200
                self.answered += 1
        connection.close()

    def end(self) -> None:
        self._stop_asking.set()
        self.join()


@contextmanager
def load(gate: Gate, clients: int) -> Iterator[list[Client]]:
    running = [Client(gate, f"198.51.100.{number}") for number in range(clients)]
    for client in running:
        client.start()
    try:
        eventually(lambda: all(client.answered for client in running), "every client is served")
        yield running
    finally:
        for client in running:
            client.end()


def test_it_counts_one_subject_exactly_whoever_decides(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(FIFTY, store_url=valkey.url(), workers=2)

    with ThreadPoolExecutor(16) as pool:
        allowed = list(pool.map(lambda _: gate.check("203.0.113.9")["allowed"], range(200)))

    # What misses its deadline is decided without the store, up to twice the limit: not what is asked here.
    eventually(lambda: gate.metric("portcullis_decisions_total") == 200, "all is counted")
    assert gate.metric("portcullis_decisions_total", source="outage") == 0
    assert sum(allowed) == 50
    eventually(lambda: gate.metric("portcullis_limit_total", outcome="refused") == 150, "all is counted")
    assert gate.metric("portcullis_limit_total", limit="fifty", outcome="admitted") == 50
    assert gate.metric("portcullis_workers") == 2


@pytest.fixture(scope="module")
def store() -> Iterator[StoreServer]:
    with stores.valkey() as server:
        yield server


@pytest.fixture(scope="module")
def pair(store: StoreServer) -> Iterator[Gate]:
    """A gate with two workers, for tests that do them no harm."""
    with gates.gate(MILLION, store_url=store.url(), workers=2) as gate:
        yield gate


def test_it_counts_each_worker_as_a_replica(pair: Gate, store: StoreServer) -> None:
    with store.client() as client:
        assert client.zcard("pc:{control}:replicas") == len(workers_of(pair)) == 2


def test_it_shares_one_unix_socket(pair: Gate) -> None:
    listening = Path("/proc/net/unix").read_text().splitlines()

    assert sum(line.endswith(f" {pair.socket}") for line in listening) == 1


def test_it_keeps_secrets_out_of_its_workers_environment(pair: Gate) -> None:
    for pid in workers_of(pair):
        assert b"PORTCULLIS_" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ignores_signals_that_are_meant_for_the_parent(pair: Gate, number: signal.Signals) -> None:
    before = workers_of(pair)

    for pid in before:
        os.kill(pid, number)
    for _ in range(10):
        assert pair.check("203.0.113.9")["allowed"]

    assert workers_of(pair) == before


def test_it_replaces_a_worker_while_the_others_serve(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(MILLION, store_url=valkey.url(), workers=2)
    before = workers_of(gate)

    with load(gate, 8) as clients:
        os.kill(before[0], ENDED)
        eventually(lambda: gate.metric("portcullis_worker_restarts_total") == 1, "the death is noticed")
        answered = [client.answered for client in clients]
        eventually(lambda: gate.metric("portcullis_workers") == 2, "there is a successor")
        eventually(
            lambda: all(client.answered > n for client, n in zip(clients, answered, strict=True)),
            "every client is served again",
        )

    after = workers_of(gate)
    assert len(after) == 2
    assert before[1] in after
    # Whoever was connected to the other one noticed nothing, and nobody's connection broke twice.
    assert {client.broken for client in clients} <= {0, 1}
    assert sum(client.broken for client in clients) < len(clients)
    restarted = [event for event in gate.events() if event["event"] == "worker_restarted"]
    assert [(event["pid"], event["ended"]) for event in restarted] == [(before[0], "SIGKILL")]


def test_it_keeps_connections_that_wait_for_a_dead_worker(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(MILLION, store_url=valkey.url(), workers=2)
    for pid in workers_of(gate):
        os.kill(pid, ENDED)

    with ThreadPoolExecutor(20) as pool:  # nobody accepts now
        allowed = list(pool.map(lambda _: gate.check("203.0.113.9")["allowed"], range(40)))

    assert all(allowed)
    eventually(lambda: gate.metric("portcullis_workers") == 2, "both have successors")


def test_it_never_lets_a_counter_fall(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(MILLION, store_url=valkey.url(), workers=2)
    seen = [0.0]
    limit = [0.0]

    def scrape() -> None:
        seen.append(gate.metric("portcullis_decisions_total"))
        limit.append(gate.metric("portcullis_limit_total"))

    with load(gate, 4):
        for deaths in range(1, 4):
            eventually(lambda: bool(workers_of(gate)), "somebody lives")
            os.kill(workers_of(gate)[0], ENDED)
            while gate.metric("portcullis_worker_restarts_total") < deaths:
                scrape()
            for _ in range(20):
                scrape()

    assert seen == sorted(seen)
    assert limit == sorted(limit)
    assert seen[-1] > 0


def test_it_forgets_the_gauges_of_the_dead(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(MILLION, store_url=valkey.url(), workers=2)
    connections = [HTTPConnection("127.0.0.1", gate.check_port, timeout=WITHIN_S) for _ in range(8)]
    for connection in connections:
        connection.connect()
    eventually(lambda: gate.metric("portcullis_connections") == 8, "all are counted")

    for pid in workers_of(gate):
        os.kill(pid, ENDED)

    eventually(lambda: gate.metric("portcullis_worker_restarts_total") == 2, "both deaths are noticed")
    eventually(lambda: gate.metric("portcullis_workers") == 2, "both have successors")
    assert gate.metric("portcullis_connections") == 0
    eventually(lambda: gate.metric("portcullis_store_up") == 1, "both have found the store")
    for connection in connections:
        connection.close()


def test_it_waits_longer_for_a_worker_that_keeps_dying(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(MILLION, store_url=valkey.url(), workers=2)

    def restarts() -> list[float]:
        return [event["pause_s"] for event in gate.events() if event["event"] == "worker_restarted"]

    def noticed(deaths: int) -> Callable[[], bool]:
        return lambda: len(restarts()) >= deaths

    victim, other = workers_of(gate)
    while len(restarts()) < 5:
        died = len(restarts())
        os.kill(victim, ENDED)
        eventually(noticed(died + 1), "the death is noticed")
        eventually(lambda: len(workers_of(gate)) == 2, "there is a successor")
        victim = next(pid for pid in workers_of(gate) if pid != other)

    # The first had worked for a while; its successors were killed before they were at work.
    assert all(later == max(0.1, 2 * earlier) for earlier, later in pairwise(restarts()))
    assert gate.check("203.0.113.9")["allowed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_gracefully_when_everybody_is_signalled(
    valkey: StoreServer, start_gate: StartGate, number: signal.Signals
) -> None:
    gate = start_gate(MILLION, store_url=valkey.url(), workers=2)
    assert gate.check("203.0.113.9")["allowed"]
    workers = workers_of(gate)

    for pid in (*workers, gate.server.pid):
        os.kill(pid, number)

    assert gate.server.wait(within_s=WITHIN_S) == 0
    assert not any(alive(pid) for pid in workers)
    assert [event["event"] for event in gate.events()][-1] == "stopping"
    with valkey.client() as client:
        assert client.zcard("pc:{control}:replicas") == 0  # they signed off


def test_it_stops_while_a_worker_is_being_replaced(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(MILLION, store_url=valkey.url(), workers=2)
    workers = workers_of(gate)
    os.kill(workers[0], ENDED)
    eventually(lambda: any(event["event"] == "worker_restarted" for event in gate.events()), "it is noticed")

    gate.server.signal(signal.SIGTERM)

    assert gate.server.wait(within_s=WITHIN_S) == 0
    assert not any(alive(pid) for pid in workers)


def test_it_leaves_no_worker_behind_when_the_parent_is_killed(
    valkey: StoreServer, start_gate: StartGate
) -> None:
    gate = start_gate(MILLION, store_url=valkey.url(), workers=2)
    workers = workers_of(gate)

    gate.server.kill()

    eventually(lambda: not any(alive(pid) for pid in workers), "they are gone")
    gate.server.start()  # on the same port
    assert gate.check("203.0.113.9")["allowed"]


def test_it_explains_with_the_fleets_hash_key(valkey: StoreServer, start_gate: StartGate) -> None:
    document = "limits: [{name: per-key, per: [key], permits: 10, window: 1h}]"
    gate = start_gate(document, store_url=valkey.url(), workers=2)
    for _ in range(3):
        assert gate.check("203.0.113.9", headers={"X-Api-Key": "k"})["allowed"]

    def remaining() -> int:
        asked = json.dumps({"address": "203.0.113.9", "headers": {"X-Api-Key": "k"}}).encode()
        answer = json.loads(gate.admin("/v1/explain", method="POST", body=asked).body)
        left = answer["limits"][0]["remaining"]
        assert isinstance(left, int)
        return left

    eventually(lambda: remaining() == 7, "what the workers hold in hand has gone back")


def test_it_knows_that_attack_mode_is_on(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(MILLION, store_url=valkey.url(), workers=2)

    attack(valkey, True)

    eventually(lambda: gate.metric("portcullis_attack_mode") == 1, "the workers follow")
    asked = json.dumps({"address": "203.0.113.9"}).encode()
    assert json.loads(gate.admin("/v1/explain", method="POST", body=asked).body)["reason"] == "attack_mode"
