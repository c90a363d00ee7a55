"""One decision, found by the id that its client was told: over real gates, with one process and with several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.gates import ROOT, TOKEN, Gate
from tests.servers import eventually
from tests.stores import StoreServer

DOCUMENT = """
filters:
  - {name: waf, patterns: [xss], match: {paths: ["/search"]}}
  - {name: closed, deny: true, match: {paths: ["/closed", "/reset/*"]}}
log: {sample: 1, hide: ["/reset/*"]}
"""
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

StartGate = Callable[..., Gate]


def portcullis(gate: Gate, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PORTCULLIS_")}
    env |= {
        "PYTHONPATH": str(ROOT),
        "PORTCULLIS_ADMIN_URL": f"http://127.0.0.1:{gate.admin_port}",
        "PORTCULLIS_ADMIN_TOKEN": TOKEN,
    }
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments], env=env, capture_output=True, text=True, check=False
    )


def test_it_is_found_with_what_the_client_is_not_told(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(DOCUMENT, store_url=valkey.url())

    refused = gate.forward(
        "203.0.113.9", "/search?q=<script>alert(1)</script>", headers={"Traceparent": TRACEPARENT}
    )
    request_id = refused.headers["x-request-id"]
    answer = json.loads(gate.admin(f"/v1/decisions/{request_id}").body)

    assert refused.status == 403
    assert b"xss" not in refused.body
    (found,) = answer["decisions"]
    assert (found["reason"], found["rule"]) == ("pattern", "waf")
    assert all(name.startswith("xss/") for name in found["patterns"])
    assert found["patterns"]
    assert found["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert "alert" not in json.dumps(answer)
    eventually(lambda: any(event.get("request_id") == request_id for event in gate.events()), "it has a line")


def test_what_is_not_known_is_said_to_be(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(DOCUMENT, store_url=valkey.url())

    unknown, wrong = gate.admin("/v1/decisions/nobody-1"), gate.admin("/v1/decisions/no%2Fid")

    assert (unknown.status, wrong.status) == (404, 404)
    assert "does not know" in json.loads(unknown.body)["detail"]


@pytest.mark.parametrize("workers", [1, 3])
def test_it_is_found_whichever_process_decided(
    valkey: StoreServer, start_gate: StartGate, workers: int
) -> None:
    gate = start_gate(DOCUMENT, store_url=valkey.url(), workers=workers)

    told = {}
    for number in range(24):  # on connections of their own: the kernel spreads them over the workers
        path = "/closed" if number % 2 else "/open"
        told[gate.forward("203.0.113.9", path).headers["x-request-id"]] = path
    found = {
        request_id: json.loads(gate.admin(f"/v1/decisions/{request_id}").body)["decisions"]
        for request_id in told
    }

    assert {request_id: each[0]["path"] for request_id, each in found.items()} == told
    assert {each[0]["event"] for each in found.values()} == {"refused", "allowed"}


def test_the_command_shows_it(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(DOCUMENT, store_url=valkey.url())
    gate.forward("203.0.113.9", "/reset/very-secret", headers={"X-Request-Id": "r-1"})

    human, machine = portcullis(gate, "decision", "r-1"), portcullis(gate, "decision", "r-1", "--json")
    unknown, wrong = portcullis(gate, "decision", "r-2"), portcullis(gate, "decision", "no id")

    assert human.stdout.startswith("refused with 403: path by closed, ")
    assert "/reset/*" in human.stdout
    assert json.loads(machine.stdout)["decisions"][0]["path"] == "/reset/*"
    assert "very-secret" not in human.stdout + machine.stdout + gate.server.tail(200)
    assert (unknown.returncode, wrong.returncode) == (1, 2)
    assert "look there for the id" in unknown.stderr
