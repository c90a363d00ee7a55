"""Which decisions become spans, what they say, and what happens when nobody takes them."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sidecar.core.model import Reason, Request, Verdict
from sidecar.log_lines import Seen, decision_of
from sidecar.serve import serve
from sidecar.tracing import (
    BATCH,
    MOST_WAITING,
    SPANS_PER_S,
    TELL_EVERY_S,
    Span,
    Spans,
    attributes_of,
    sender_to,
)
from tests.collector import Collector, collector
from tests.gates import ROOT
from tests.servers import WITHIN_S, eventually, free_port

NOON_NS = 1_772_366_400_000_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
ALLOWED = Verdict(Reason.OK)
REFUSED = Verdict(Reason.RATE_LIMITED, rule="per-ip", violated=("per-ip",), retry_after_s=12)


class Taken:
    """A sender that keeps what it is given; one that is `stuck` waits to be let go."""

    def __init__(self, *, takes: bool = True) -> None:
        self.batches: list[list[Span]] = []
        self.closed = False
        self.takes = takes
        self.free = threading.Event()
        self.free.set()

    def send(self, spans: Sequence[Span]) -> bool:
        assert self.free.wait(WITHIN_S)
        self.batches.append(list(spans))
        return self.takes

    def close(self) -> None:
        self.closed = True
        self.free.set()

    @property
    def spans(self) -> list[Span]:
        return [span for batch in self.batches for span in batch]


class Rig:
    """Spans with a clock that stands still, whose thread sends at once."""

    def __init__(self, share: float = 1.0, sender: Taken | None = None) -> None:
        self.sender = sender or Taken()
        self.told: list[str] = []
        self.spans = Spans(
            self.sender,
            share=share,
            warn=self.told.append,
            wall_ns=lambda: NOON_NS,
            chance=random.Random(3),
            every_s=0.001,
        )

    def see(
        self,
        traceparent: str = "",
        *,
        verdict: Verdict = ALLOWED,
        mono_s: float = 0.0,
        times: int = 1,
        path: str = "/orders",
    ) -> None:
        headers = {b"traceparent": traceparent.encode()} if traceparent else {}
        request = Request(
            address="203.0.113.9", method="GET", host="shop.example", path=path, headers=headers
        )
        for _ in range(times):
            self.spans.seen(0, request, verdict, b"id-1", 0.000_250, mono_s)

    def sent(self) -> list[Span]:
        self.spans.close(WITHIN_S)
        return self.sender.spans


@pytest.mark.parametrize(
    ("share", "traceparent", "spans"),
    [
        (1.0, "", 10),
        (0.0, "", 0),
        (0.0, f"00-{TRACE}-{SPAN}-01", 10),
        (1.0, f"00-{TRACE}-{SPAN}-00", 0),
        (0.0, f"00-{TRACE.upper()}-{SPAN}-01", 0),  # not well formed: as if it were not there
        (1.0, f"00-{TRACE.upper()}-{SPAN}-01", 10),
    ],
)
def test_the_trace_s_own_flag_decides_and_without_a_trace_the_share(
    share: float, traceparent: str, spans: int
) -> None:
    rig = Rig(share)

    rig.see(traceparent, times=10)

    assert len(rig.sent()) == spans


def test_a_span_goes_on_with_the_trace_of_who_asked() -> None:
    rig = Rig(0.0)

    rig.see(f"00-{TRACE}-{SPAN}-01")
    (span,) = rig.sent()

    assert (f"{span.trace_id:032x}", f"{span.parent_id:016x}") == (TRACE, SPAN)
    assert span.span_id not in {0, span.parent_id}
    assert (span.start_ns, span.end_ns) == (NOON_NS - 250_000, NOON_NS)


def test_a_span_without_a_trace_begins_one_of_its_own() -> None:
    rig = Rig()

    rig.see(times=100)
    spans = rig.sent()

    assert {span.parent_id for span in spans} == {0}
    assert len({span.trace_id for span in spans} | {span.span_id for span in spans}) == 200


def test_a_reload_changes_the_share() -> None:
    rig = Rig(0.0)

    rig.spans.set_share(1.0)
    rig.see()

    assert len(rig.sent()) == 1


def test_a_span_says_what_the_log_says() -> None:
    asked = Request(address="203.0.113.9", method="GET", host="shop.example", path="/orders", headers={})

    assert attributes_of(decision_of(Seen(3, asked, REFUSED, b"id-1", 0.0), 0.0)) == {
        "http.request.method": "GET",
        "url.path": "/orders",
        "server.address": "shop.example",
        "client.address": "203.0.113.9",
        "http.response.status_code": 429,
        "portcullis.allowed": False,
        "portcullis.front": "api",
        "portcullis.reason": "rate_limited",
        "portcullis.source": "memory",
        "portcullis.rule": "per-ip",
        "portcullis.limits": ["per-ip"],
        "portcullis.request_id": "id-1",
    }


def test_a_hidden_path_is_hidden_in_spans_too() -> None:
    rig = Rig()
    rig.spans.hide(["/reset/*"])

    rig.see(path="/reset/SECRET")

    assert rig.sent()[0].decision.path == "/reset/*"


def test_more_than_the_rate_are_dropped_whoever_asks_for_them() -> None:
    rig = Rig(sender=Taken())

    rig.see(f"00-{TRACE}-{SPAN}-01", times=10_000)

    assert len(rig.sent()) == SPANS_PER_S
    assert rig.spans.dropped == 10_000 - SPANS_PER_S


def test_a_stuck_collector_fills_the_queue_and_blocks_nobody() -> None:
    sender = Taken()
    sender.free.clear()
    rig = Rig(sender=sender)

    for second in range(20):
        rig.see(times=SPANS_PER_S, mono_s=float(second))
    made = 20 * SPANS_PER_S - rig.spans.dropped

    assert MOST_WAITING <= made <= MOST_WAITING + BATCH
    sender.free.set()
    assert len(rig.sent()) == made


def test_spans_go_in_batches() -> None:
    sender = Taken()
    sender.free.clear()
    rig = Rig(sender=sender)

    rig.see(times=300)
    sender.free.set()
    rig.sent()

    assert max(map(len, sender.batches)) <= BATCH
    assert sum(map(len, sender.batches)) == 300


def test_what_is_gone_is_told_once_a_minute() -> None:
    rig = Rig(sender=Taken(takes=False))

    rig.see(times=SPANS_PER_S + 7)
    rig.sent()
    for mono_s in (0.0, 1.0, TELL_EVERY_S - 1, TELL_EVERY_S + 1):
        rig.spans.sweep(mono_s)

    assert rig.spans.lost == SPANS_PER_S
    assert len(rig.told) == 1
    assert f"{SPANS_PER_S + 7} spans" in rig.told[0]


def test_a_stop_does_not_wait_for_a_stuck_collector() -> None:
    sender = Taken()
    sender.free.clear()
    rig = Rig(sender=sender)

    rig.see()
    rig.spans.close(0.01)

    assert sender.closed


# --- the extra ----------------------------------------------------------------------


def test_a_gate_without_tracing_loads_no_exporter() -> None:
    # redis-py loads the SDK by itself where it is installed.
    shown = "import sidecar.serve, sidecar.worker, sys; print(*sys.modules)"

    said = subprocess.run([sys.executable, "-c", shown], cwd=ROOT, check=True, capture_output=True, text=True)

    assert not {"sidecar.otlp", "opentelemetry.exporter", "requests"} & set(said.stdout.split())


def test_a_gate_without_the_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)  # which other tests have loaded
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    document = tmp_path / "portcullis.yaml"
    document.write_text("tracing: {otlp: 'http://127.0.0.1:4318/v1/traces'}\n")

    status = serve(document, {})

    assert status == 1
    assert "install portcullis[tracing]" in capsys.readouterr().err


# --- over the wire ------------------------------------------------------------------


@pytest.fixture
def here() -> Iterator[Collector]:
    with collector() as running:
        yield running


def spans_to(url: str) -> Spans:
    sender = sender_to(url, instance="gate/1", version="1.2.3")
    return Spans(sender, share=1.0, warn=lambda _: None, every_s=0.001)


def ask(spans: Spans, traceparent: bytes = b"") -> None:
    headers = {b"traceparent": traceparent} if traceparent else {}
    asked = Request(address="203.0.113.9", method="GET", host="", path="/orders", headers=headers)
    spans.seen(0, asked, REFUSED, b"id-1", 0.001, 0.0)


def test_a_collector_gets_what_was_seen(here: Collector) -> None:
    spans = spans_to(here.url)

    ask(spans, f"00-{TRACE}-{SPAN}-01".encode())
    spans.close(WITHIN_S)

    (span,) = here.spans
    assert (span.name, span.kind, span.trace_id, span.parent_id) == ("portcullis.check", 2, TRACE, SPAN)
    assert span.end_ns - span.start_ns == 1_000_000
    assert span.said["portcullis.limits"] == ["per-ip"]
    assert span.resource["service.name"] == "portcullis"
    assert span.resource["service.instance.id"] == "gate/1"
    assert spans.lost == 0


def test_the_operator_s_own_words_about_the_service_win(
    here: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod")
    spans = spans_to(here.url)

    ask(spans)
    spans.close(WITHIN_S)

    assert here.spans[0].resource["service.name"] == "edge"
    assert here.spans[0].resource["deployment.environment.name"] == "prod"


@pytest.mark.parametrize("status", [400, 404])
def test_what_a_collector_refuses_is_lost_and_counted(here: Collector, status: int) -> None:
    here.status = status
    spans = spans_to(here.url)

    ask(spans)
    eventually(lambda: spans.lost == 1, "it is given up")
    spans.close(WITHIN_S)

    assert here.requests == 1


def test_a_collector_that_is_not_there_loses_spans_and_nothing_else() -> None:
    spans = spans_to(f"http://127.0.0.1:{free_port()}/v1/traces")

    for _ in range(10):
        ask(spans)
    spans.close(0.01)

    eventually(lambda: spans.lost == 10, "a closed sender gives up what it waits to send again")
