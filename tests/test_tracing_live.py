"""Spans of real gates in a collector on loopback, and a collector that is not there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.collector import Collector, collector
from tests.gates import Gate
from tests.servers import WITHIN_S, Answer, eventually, free_port
from tests.stores import StoreServer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
SAMPLED = {"Traceparent": f"00-{TRACE}-{SPAN}-01"}
ADDRESS = "203.0.113.9"

StartGate = Callable[..., Gate]


@pytest.fixture
def here() -> Iterator[Collector]:
    with collector() as running:
        yield running


def nginx(gate: Gate) -> Answer:
    own = {"X-Real-IP": ADDRESS, "X-Original-Method": "GET", "X-Original-URI": "/orders"}
    return gate.ask("/auth/nginx", headers={**own, **SAMPLED})


def envoy(gate: Gate) -> Answer:
    return gate.ask("/auth/envoy/orders", headers={"X-Real-IP": ADDRESS, **SAMPLED})


def forward(gate: Gate) -> Answer:
    return gate.forward(ADDRESS, "/orders", headers=SAMPLED)


def api(gate: Gate) -> Answer:
    body = json.dumps({"address": ADDRESS, "path": "/orders"}).encode()
    return gate.ask("/v1/check", method="POST", headers=SAMPLED, body=body)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_front_s_decisions_are_spans_of_the_trace_that_asks(
    valkey: StoreServer, start_gate: StartGate, here: Collector, workers: int
) -> None:
    gate = start_gate(f"tracing: {{otlp: '{here.url}', sample: 0}}", store_url=valkey.url(), workers=workers)

    answers = [ask(gate) for ask in (nginx, envoy, forward, api)]
    gate.forward(ADDRESS, "/orders")  # in no trace, and none is begun
    eventually(lambda: len(here.spans) == 4, "all spans arrive")

    assert {span.trace_id for span in here.spans} == {TRACE}
    assert {span.parent_id for span in here.spans} == {SPAN}
    assert {span.said["portcullis.front"] for span in here.spans} == {"nginx", "envoy", "forward", "api"}
    assert {span.said["portcullis.request_id"] for span in here.spans} == {
        answer.headers["x-request-id"] for answer in answers
    }
    for span in here.spans:
        assert span.start_ns <= span.end_ns
        assert span.said["url.path"] == "/orders"
        assert span.said["portcullis.allowed"] is True


def test_what_waits_at_a_stop_is_sent(valkey: StoreServer, start_gate: StartGate, here: Collector) -> None:
    gate = start_gate(f"tracing: {{otlp: '{here.url}', sample: 1}}", store_url=valkey.url())

    for _ in range(100):
        gate.forward(ADDRESS)
    gate.server.stop()

    assert len(here.spans) == 100


def test_a_reload_changes_the_share_and_refuses_another_collector(
    valkey: StoreServer, start_gate: StartGate, here: Collector
) -> None:
    gate = start_gate(f"tracing: {{otlp: '{here.url}', sample: 0}}", store_url=valkey.url())
    text = gate.document.read_text()

    gate.document.write_text(text.replace("sample: 0", "sample: 1"))
    eventually(lambda: bool(gate.forward(ADDRESS)) and bool(here.spans), "the new share holds")
    gate.document.write_text(text.replace("/v1/traces", "/other"))

    eventually(
        lambda: any("tracing.otlp" in str(event.get("error")) for event in gate.events()), "it is refused"
    )


def test_a_dead_collector_harms_nobody(valkey: StoreServer, start_gate: StartGate) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/traces"
    gate = start_gate(f"tracing: {{otlp: '{url}', sample: 1}}", store_url=valkey.url())

    statuses = {gate.forward(f"203.0.113.{number % 200}").status for number in range(600)}

    assert statuses == {200}
    eventually(
        lambda: any("spans are gone" in str(event.get("message")) for event in gate.events()),
        "the loss is told",
        within_s=2 * WITHIN_S,
    )
    assert sum("spans are gone" in str(event.get("message")) for event in gate.events()) == 1
    assert not [event for event in gate.events() if event["event"] == "log"]


def test_a_collector_that_never_answers_does_not_hold_up_a_stop(
    valkey: StoreServer, start_gate: StartGate, here: Collector
) -> None:
    let_go = threading.Event()
    here.before = lambda: let_go.wait(WITHIN_S)
    gate = start_gate(f"tracing: {{otlp: '{here.url}', sample: 1}}", store_url=valkey.url())

    gate.forward(ADDRESS)
    eventually(lambda: here.requests == 1, "it is asked")
    ended = gate.server.stop()
    let_go.set()

    assert ended == 0
